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


def test_a_run_is_told_the_numbers_that_the_job_names() -> None:
    told = spec_of(
        Training(),
        learning_rate=1e-4,
        num_train_epochs=2.5,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=8,
    ).training
    assert (told.learning_rate, told.num_train_epochs) == (1e-4, 2.5)
    assert (told.per_device_train_batch_size, told.gradient_accumulation_steps) == (2, 8)


def test_openais_names_become_the_trainers() -> None:
    told = spec_of(Training(), n_epochs=4, batch_size=48, finetuning_type="full").training
    assert (told.num_train_epochs, told.learning_rate) == (4.0, 5e-5)
    assert (told.per_device_train_batch_size, told.gradient_accumulation_steps) == (16, 3)
    half = spec_of(Training(), gradient_accumulation_steps=4).training
    assert (half.per_device_train_batch_size, half.gradient_accumulation_steps) == (1, 4)


def test_what_is_settled_is_told_under_either_name() -> None:
    given = {"num_train_epochs": 2.5, "per_device_train_batch_size": 3, "learning_rate": 1e-4}
    settled = settle(SupervisedHyperparameters.model_validate(given), 100)
    assert (settled.n_epochs, settled.batch_size) == (3, 3)
    assert settled.of("gradient_accumulation_steps") == 1
    assert (settled.of("learning_rate"), settled.learning_rate_multiplier) == (1e-4, "auto")
    auto = settle(SupervisedHyperparameters(), 100)
    assert (auto.n_epochs, auto.of("num_train_epochs"), auto.of("learning_rate")) == (3, 3.0, None)
    for each in (settled, auto):
        kept = SupervisedHyperparameters.model_validate(each.model_dump(mode="json"))
        assert settle(kept, 7) == kept


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
