"""What a trainer is told of a job."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from server.config import ModelEntry, Training
from server.fine_tuning.base_shape import BaseShape, read_base_shape
from server.fine_tuning.hyperparameters import SupervisedHyperparameters, settle
from server.store.records import Project
from server.supervisor.train_spec import build_train_spec
from tests.jobs.factories import new_job
from workers.contract.training import TrainSpec


def spec_of(settings: Training, **knobs: object) -> TrainSpec:
    wanted = settle(SupervisedHyperparameters.model_validate(knobs), 100)
    project = Project(id="proj_1", slug="acme", name="Acme", created_at=1)
    job = replace(new_job(project), hyperparameters=wanted.model_dump(mode="json"))
    entry = ModelEntry(id="base", path="/m")
    return build_train_spec(job, settings, entry, (), Path("/out"))


def test_examples_are_as_long_as_the_operator_allows_unless_the_job_says_less() -> None:
    assert spec_of(Training()).data.cutoff_len == 16_384
    assert spec_of(Training(max_cutoff_len=4000)).data.cutoff_len == 4000
    assert spec_of(Training(max_cutoff_len=4000), cutoff_len=300).data.cutoff_len == 300


def test_packed_rows_are_no_longer_than_they_need_to_be_unless_the_job_says() -> None:
    assert spec_of(Training(), packing=True).data.packing_len == 2048
    assert spec_of(Training(), packing=True, cutoff_len=4096).data.packing_len is None


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ({"hidden_size": 64, "max_position_embeddings": 512}, BaseShape(64, 512)),
        ({"text_config": {"hidden_size": 64, "max_position_embeddings": 9}}, BaseShape(64, 9)),
        ({"text_config": None}, BaseShape()),
        ([], BaseShape()),
    ],
)
def test_a_bases_shape_is_read_from_its_config(
    tmp_path: Path, config: object, shape: BaseShape
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_base_shape(tmp_path) == shape


def test_a_base_without_a_config_has_no_known_shape(tmp_path: Path) -> None:
    assert read_base_shape(tmp_path) == BaseShape()
