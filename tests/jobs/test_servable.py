"""Jobs whose result could not be served: refused when they are created, ended as soon as it is
known, and never in the way of others."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from server.config import EngineKind, ModelEntry
from server.engines.start_failures import failing_engines
from server.fine_tuning.servable import SERVED_BY
from tests.jobs.conftest import settings_for
from tests.jobs.live import Gateway, engines_of, running_gateway, running_supervisor, wait_until
from tests.jobs.stories import create, messages, say, upload, wait_for
from workers.engine.adapter_kinds import rules_of
from workers.engine.spec import BackendName

KNOBS = "method.supervised.hyperparameters"
ATTACHED = {"engine": "attached", "url": "http://127.0.0.1:9"}
ELSEWHERE = {
    "replicas": 0,
    "addresses": ["tcp:127.0.0.1:9"],
    "token_file": "/dev/null",
}
ENTRIES: dict[str, dict[str, Any]] = {
    "odd-rank": {"engine": "vllm", "max_lora_rank": 48},
    "no-lora": {"engine": "vllm", "max_loras": 0},
    "attached": ATTACHED,
    "attached-open": {**ATTACHED, "allow_adapters": True},
    "elsewhere": {"engine": "hf", **ELSEWHERE},
    "merged": {"engine": "hf", "settings": {"merged_adapters": ["/x"]}},
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Generator[Gateway]:
    models = [{"id": name, "path": str(tiny_model), **entry} for name, entry in ENTRIES.items()]
    with running_gateway(tmp_path_factory.mktemp("entries"), {"models": models}) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Generator[OpenAI]:
    with gateway.client() as client:
        yield client


@pytest.fixture(scope="module")
def training_file(client: OpenAI) -> str:
    return upload(client)


@pytest.mark.parametrize(
    ("model", "knobs", "param", "code"),
    [
        ("odd-rank", {"lora_rank": 49}, f"{KNOBS}.lora_rank", "unsupported_value"),
        ("no-lora", {}, f"{KNOBS}.finetuning_type", "unsupported_value"),
        ("attached", {}, "model", "model_not_available"),
        (
            "odd-rank",
            {"pissa_init": True, "pissa_convert": True, "lora_rank": 25},
            f"{KNOBS}.lora_rank",
            "unsupported_value",
        ),
        (
            "odd-rank",
            {"finetuning_type": "oft", "merge": "never"},
            f"{KNOBS}.finetuning_type",
            "unsupported_value",
        ),
        ("elsewhere", {"merge": "always"}, f"{KNOBS}.finetuning_type", "unsupported_value"),
        ("attached", {"finetuning_type": "full"}, f"{KNOBS}.finetuning_type", "unsupported_value"),
        (
            "attached-open",
            {"finetuning_type": "full"},
            f"{KNOBS}.finetuning_type",
            "unsupported_value",
        ),
        ("elsewhere", {"finetuning_type": "full"}, f"{KNOBS}.finetuning_type", "unsupported_value"),
        ("merged", {}, "model", "model_not_available"),
        ("odd-rank", {"cutoff_len": 513}, f"{KNOBS}.cutoff_len", "unsupported_value"),
        (
            "odd-rank",
            {"learning_rate_multiplier": 50.0},
            f"{KNOBS}.learning_rate_multiplier",
            "decimal_above_max_value",
        ),
        (
            "odd-rank",
            {"learning_rate_multiplier": 1e5},
            f"{KNOBS}.learning_rate_multiplier",
            "decimal_above_max_value",
        ),
        (
            "odd-rank",
            {"learning_rate_multiplier": 1e-9},
            f"{KNOBS}.learning_rate_multiplier",
            "decimal_below_min_value",
        ),
        (
            "odd-rank",
            {"use_dora": True, "merge": "never"},
            f"{KNOBS}.use_dora",
            "unsupported_value",
        ),
        ("odd-rank", {"fp16": True}, f"{KNOBS}.fp16", "unsupported_value"),
        (
            "odd-rank",
            {"use_dft_loss": True, "use_eaft_loss": True},
            f"{KNOBS}.use_eaft_loss",
            "unsupported_value",
        ),
        (
            "odd-rank",
            {"eval_strategy": "epoch"},
            f"{KNOBS}.eval_strategy",
            "unsupported_parameter",
        ),
        ("odd-rank", {"save_strategy": "steps"}, f"{KNOBS}.save_steps", "unsupported_value"),
        ("odd-rank", {"val_size": 1.5}, f"{KNOBS}.val_size", "unsupported_value"),
        ("odd-rank", {"learning_rate": 0.06}, f"{KNOBS}.learning_rate", "decimal_above_max_value"),
        (
            "odd-rank",
            {"learning_rate": 1e-4, "learning_rate_multiplier": 1.0},
            f"{KNOBS}.learning_rate",
            "unsupported_value",
        ),
        (
            "odd-rank",
            {"num_train_epochs": 3.0, "n_epochs": 3},
            f"{KNOBS}.num_train_epochs",
            "unsupported_value",
        ),
        (
            "odd-rank",
            {"gradient_accumulation_steps": 2, "batch_size": 4},
            f"{KNOBS}.gradient_accumulation_steps",
            "unsupported_value",
        ),
        (
            "odd-rank",
            {
                "batch_size": "auto",
                "per_device_train_batch_size": 16,
                "gradient_accumulation_steps": 17,
            },
            f"{KNOBS}.gradient_accumulation_steps",
            "unsupported_value",
        ),
    ],
)
def test_what_could_not_be_served_is_refused_at_creation(
    client: OpenAI,
    training_file: str,
    model: str,
    knobs: dict[str, Any],
    param: str,
    code: str,
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        create(client, training_file, model=model, hyperparameters=knobs)
    assert (refused.value.param, refused.value.code) == (param, code), refused.value.message


@pytest.mark.parametrize(
    ("model", "knobs"),
    [
        ("odd-rank", {"lora_rank": 48}),
        ("no-lora", {"finetuning_type": "full"}),
        ("attached-open", {}),
        ("elsewhere", {}),
        ("odd-rank", {"cutoff_len": 512}),
        ("odd-rank", {"optim": "sgd", "learning_rate_multiplier": 50.0}),
        ("odd-rank", {"optim": "sgd", "learning_rate": 0.06}),
        ("odd-rank", {"use_rslora": True, "val_size": 2, "eval_strategy": "epoch"}),
        ("elsewhere", {"use_dora": True}),
        ("odd-rank", {"use_dora": True}),
        ("no-lora", {"merge": "always"}),
        ("odd-rank", {"n_epochs": "auto", "num_train_epochs": 0.5}),
        ("odd-rank", {"batch_size": "auto", "gradient_accumulation_steps": 256}),
    ],
)
def test_what_can_be_served_is_accepted(
    client: OpenAI, training_file: str, model: str, knobs: dict[str, Any]
) -> None:
    job = create(client, training_file, model=model, hyperparameters=knobs)
    assert job.status == "validating_files"


def test_the_rate_that_is_refused_is_told_with_the_most_that_is_not(
    client: OpenAI, training_file: str
) -> None:
    def given(multiplier: float) -> str:
        knobs = {"learning_rate_multiplier": multiplier}
        return create(client, training_file, model="odd-rank", hyperparameters=knobs).status

    with pytest.raises(openai.BadRequestError, match=r"learning rate of 0\.36 ") as refused:
        given(50.0)
    most = float(refused.value.message.split("value <= ")[1].split(",")[0])
    assert given(most * 0.999) == "validating_files"
    with pytest.raises(openai.BadRequestError):
        given(most * 1.001)


def test_a_rank_that_vllm_cannot_be_started_with_is_no_configuration() -> None:
    with pytest.raises(ValueError, match="at most 512"):
        ModelEntry.model_validate({"id": "m", "path": "/m", "engine": "vllm", "max_lora_rank": 600})


def test_kinds_of_adapters_are_refused_where_an_engine_refuses_them() -> None:
    for engine in EngineKind:
        rules = rules_of(BackendName(engine), 64)
        assert (engine in SERVED_BY["use_dora"]) == rules.dora
        assert (engine in SERVED_BY["use_rslora"]) == rules.rslora


def test_a_base_whose_engine_never_starts_is_not_trained(tmp_path: Path, tiny_model: Path) -> None:
    settings = settings_for(tiny_model)
    settings["models"][0]["python"] = "/bin/false"  # type: ignore[index]
    with running_gateway(tmp_path, settings) as gateway, gateway.client() as client:
        job_id = create(client).id
        with running_supervisor(tmp_path):
            wait_until(lambda: failing_engines(gateway.data / "run", "tiny"))
            with pytest.raises(openai.InternalServerError, match="does not start") as refused:
                create(client)
            assert refused.value.status_code == 503
            assert float(refused.value.response.headers["retry-after"]) > 0
            failed = wait_for(client, job_id)
            assert failed.error is not None
            assert (failed.status, failed.error.code) == ("failed", "model_not_available")
            assert "The engine of the model 'tiny' does not start" in failed.error.message
            assert not any(message.startswith("Step ") for message in messages(client, job_id))


def test_a_job_ends_when_its_engine_says_that_it_serves_no_adapters(
    tmp_path: Path, tiny_model: Path
) -> None:
    settings = settings_for(tiny_model)
    engine = settings["models"][0]["settings"]  # type: ignore[index]
    engine["capabilities"] = ["seed"]
    with running_gateway(tmp_path, settings) as gateway, gateway.client() as client:
        training_file = upload(client)
        job_id = create(client, training_file, hyperparameters={"n_epochs": 50}).id
        with running_supervisor(tmp_path):
            failed = wait_for(client, job_id)
            assert failed.error is not None
            assert (failed.error.code, failed.error.param) == (
                "model_not_available",
                f"{KNOBS}.finetuning_type",
            )
            assert "Checkpoint created at step 150" not in messages(client, job_id)
            wait_until(lambda: _says(client, "tiny"))
            with pytest.raises(openai.BadRequestError, match="serves no adapters") as refused:
                create(client, training_file)
            assert refused.value.param == f"{KNOBS}.finetuning_type"
            full = {"finetuning_type": "full"}
            assert create(client, training_file, hyperparameters=full).status


@pytest.mark.parametrize("ending", ["cancelled", "succeeded"])
def test_a_job_that_waits_for_its_engine_keeps_no_other_from_training(
    tmp_path: Path, tiny_model: Path, ending: str
) -> None:
    broken = tmp_path / "broken"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ -e {broken} ] && exit 1\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    settings = settings_for(tiny_model)
    (entry,) = settings["models"]  # type: ignore[misc]
    settings["models"] = [{**entry, "python": str(python)}, {**entry, "id": "other"}]
    knobs = {"n_epochs": 10, "batch_size": 1}
    with (
        running_gateway(tmp_path, settings) as gateway,
        running_supervisor(tmp_path) as supervisor,
        gateway.client() as client,
    ):
        wait_until(lambda: _says(client, "tiny"))
        waiting = create(client, hyperparameters=knobs).id
        wait_until(lambda: any(m.startswith("Step ") for m in messages(client, waiting)))
        broken.touch()
        for engine in engines_of(supervisor.pid):
            engine.kill()
        wait_until(lambda: _is_trained(gateway.data, waiting))
        other = wait_for(client, create(client, model="other").id)
        assert other.status == "succeeded", other.error
        assert client.fine_tuning.jobs.retrieve(waiting).status == "running"
        assert any("it is waited for" in message for message in messages(client, waiting))
        if ending == "cancelled":
            client.fine_tuning.jobs.cancel(waiting)
        broken.unlink()
        assert wait_for(client, waiting).status == ending


def _is_trained(data: Path, job_id: str) -> bool:
    events = data / "jobs" / job_id / "events.ndjson"
    return events.exists() and '"type":"completed"' in events.read_text()


def _says(client: OpenAI, model: str) -> bool:
    try:
        return say(client, model) is not None
    except openai.InternalServerError:
        return False
