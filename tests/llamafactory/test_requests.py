"""Jobs created from a LLaMA-Factory config, at a gateway without a supervisor."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.conftest import settings_for
from tests.jobs.live import Gateway, running_gateway
from tests.jobs.stories import messages, upload

CONFIG: dict[str, Any] = {
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "lora",
    "lora_rank": 4,
    "lora_target": "all",
    "cutoff_len": 32,
    "max_samples": 1000,
    "output_dir": "saves/tiny/lora/sft",
    "overwrite_output_dir": True,
    "dataloader_num_workers": 4,
    "logging_steps": 2,
    "learning_rate": "1e-4",
    "num_train_epochs": 3,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.1,
    "resume_from_checkpoint": None,
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Generator[Gateway]:
    folder = tmp_path_factory.mktemp("configs")
    second = shutil.copytree(tiny_model, folder / "second")
    settings = settings_for(tiny_model)
    models: Any = settings["models"]
    named = {**models[0], "id": "named", "template": "qwen", "path": str(second)}
    named["default_system"] = "Keep this to yourself."
    settings["models"] = [*models, named, {**named, "id": "twin"}]
    with running_gateway(folder, settings) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def file_id(gateway: Gateway) -> str:
    return upload(gateway.client())


def post(gateway: Gateway, **body: Any) -> Any:
    with gateway.http() as http:
        return http.post("/fine_tuning/jobs", json=body)


def test_a_config_is_a_job_and_what_was_dropped_is_told(
    gateway: Gateway, file_id: str, tiny_model: Path
) -> None:
    config = {**CONFIG, "model_name_or_path": str(tiny_model), "dataset": file_id}
    answer = post(gateway, llamafactory={**config, "template": "qwen"}, suffix="mine")
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert (job["model"], job["training_file"], job["seed"]) == ("tiny", file_id, 42)
    settled = job["method"]["supervised"]["hyperparameters"]
    assert {name: settled[name] for name in ("learning_rate", "lora_rank", "num_train_epochs")} == {
        "learning_rate": 1e-4,
        "lora_rank": 4,
        "num_train_epochs": 3.0,
    }
    assert (settled["per_device_train_batch_size"], settled["gradient_accumulation_steps"]) == (
        8,
        1,
    )
    told = messages(gateway.client(), job["id"])
    assert len(told) == 2
    assert "output_dir, overwrite_output_dir: the service keeps a job's files in its own" in told[1]
    assert "do_train: a job trains in any case" in told[1]
    assert "template: 'tiny' is trained and served with its own chat template" in told[1]
    assert "lora_rank" not in told[1]


def test_fields_of_the_request_stand_in_place_of_the_configs(
    gateway: Gateway, file_id: str
) -> None:
    config = {**CONFIG, "model_name_or_path": "Qwen/Qwen3-4B", "dataset": "a,b", "seed": 5}
    answer = post(gateway, model="tiny", training_file=file_id, seed=7, llamafactory=config)
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert (job["model"], job["training_file"], job["seed"]) == ("tiny", file_id, 7)
    told = messages(gateway.client(), job["id"])[1]
    assert "dataset: the request's 'training_file' stands in its place" in told
    assert "model_name_or_path: the request's 'model' stands in its place" in told


def test_a_preference_config_is_a_job_of_dpo(gateway: Gateway, file_id: str) -> None:
    config = {**CONFIG, "stage": "dpo", "pref_beta": "0.2", "pref_loss": "hinge", "val_size": 0.1}
    answer = post(gateway, model="tiny", training_file=file_id, llamafactory=config)
    assert answer.status_code == 200, answer.text
    settled = answer.json()["method"]["dpo"]["hyperparameters"]
    assert (settled["pref_beta"], settled["pref_loss"], settled["val_size"]) == (0.2, "hinge", 0.1)


K = "llamafactory"
REFUSED: list[tuple[dict[str, Any], str, str, str]] = [
    ({"stage": "ppo"}, "reward_model", "missing_required_parameter", ""),
    ({"stage": "ppo", "reward_model": "saves/x"}, "reward_model", "invalid_value", "no model"),
    ({"stage": "grpo"}, "stage", "unsupported_value", "no stage 'grpo'"),
    ({"finetuning_type": "prefix"}, "finetuning_type", "invalid_value", "'lora'"),
    ({"lora_rnk": 8}, "lora_rnk", "unknown_parameter", "Did you mean 'lora_rank'?"),
    ({"n_epochs": 3}, "n_epochs", "unknown_parameter", "Unknown"),
    ({"use_galore": True}, "use_galore", "unsupported_parameter", "optim"),
    ({"use_kt": True}, "use_kt", "unsupported_parameter", "KTransformers"),
    ({"tensor_model_parallel_size": 2}, "tensor_model_parallel_size", "unsupported_parameter", ""),
    ({"lora_rank": 0}, "lora_rank", "integer_below_min_value", ">= 1"),
    ({"lora_rank": "many"}, "lora_rank", "invalid_type", "an integer"),
    ({"lora_rank": 500}, "lora_rank", "unsupported_value", "rank 64 at most"),
    ({"learning_rate": "fast"}, "learning_rate", "invalid_type", "a decimal"),
    ({"learning_rate": 1.0}, "learning_rate", "decimal_above_max_value", "diverges"),
    ({"cutoff_len": 10**6}, "cutoff_len", "unsupported_value", "trained on examples of"),
    ({"bf16": True, "pure_bf16": True}, "pure_bf16", "unsupported_value", "exclude"),
    ({"fp16": True}, "fp16", "unsupported_value", "bf16"),
    ({"use_asft_loss": True, "finetuning_type": "full"}, "use_asft_loss", "", "lora"),
    ({"stage": "dpo", "pref_beta": 500}, "pref_beta", "decimal_above_max_value", "<= 100"),
    (
        {"stage": "dpo", "pref_loss": "simpo", "dpo_label_smoothing": 0.1},
        "dpo_label_smoothing",
        "unsupported_parameter",
        "pref_loss 'sigmoid'",
    ),
    ({"stage": "dpo", "mask_history": True}, "mask_history", "unsupported_parameter", "sft"),
    ({"default_system": "Be."}, "default_system", "unsupported_value", "with none"),
    ({"report_to": "wandb"}, "report_to", "unsupported_parameter", "none"),
    ({"seed": -1}, "seed", "integer_below_min_value", ">= 0"),
    ({"eval_strategy": "steps", "eval_steps": 5}, "eval_steps", "unsupported_parameter", ""),
    ({"dataset": 3}, "dataset", "invalid_value", "Expected a name"),
]


@pytest.mark.parametrize(
    ("change", "key", "code", "said"), REFUSED, ids=[f"{key}-{code}" for _, key, code, _ in REFUSED]
)
def test_what_a_job_does_not_do_is_refused_by_the_configs_key(
    gateway: Gateway, file_id: str, change: dict[str, Any], key: str, code: str, said: str
) -> None:
    answer = post(gateway, model="tiny", training_file=file_id, llamafactory={**CONFIG, **change})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == f"{K}.{key}", error
    assert code in error["code"]
    assert said in error["message"]
    assert "method." not in error["message"]


def test_the_model_and_the_files_that_a_config_names_must_be_there(
    gateway: Gateway, file_id: str
) -> None:
    named = str(gateway.data.parent / "second")
    for change, status, param, said in (
        ({}, 400, f"{K}.model_name_or_path", "Missing required"),
        ({"model_name_or_path": "tiny"}, 400, f"{K}.dataset", "Missing required"),
        ({"model_name_or_path": "tiny", "dataset": "identity"}, 400, f"{K}.dataset", "by its id"),
        ({"model_name_or_path": "tiny", "dataset": "file-none"}, 400, f"{K}.dataset", "no such"),
        (
            {"model_name_or_path": "tiny", "dataset": [file_id, file_id]},
            400,
            f"{K}.dataset",
            "one uploaded file",
        ),
        (
            {"model_name_or_path": "Qwen/Qwen3-4B", "dataset": file_id},
            404,
            f"{K}.model_name_or_path",
            "one of this server's (tiny, named, twin)",
        ),
        (
            {"model_name_or_path": "x", "adapter_name_or_path": None, "dataset": file_id},
            404,
            f"{K}.model_name_or_path",
            "does not exist",
        ),
        (
            {"adapter_name_or_path": "saves/x", "dataset": file_id},
            404,
            f"{K}.adapter_name_or_path",
            "does not exist",
        ),
        (
            {"model_name_or_path": named, "dataset": file_id},
            400,
            f"{K}.model_name_or_path",
            "It is served as named, twin",
        ),
    ):
        answer = post(gateway, llamafactory={**CONFIG, **change})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (status, param), error
        assert said in error["message"]


def test_a_template_must_be_the_entrys_own(gateway: Gateway, file_id: str) -> None:
    body = {"model": "named", "training_file": file_id}
    refused = post(gateway, **body, llamafactory={**CONFIG, "template": "llama3"})
    assert refused.json()["error"]["param"] == f"{K}.template"
    assert "'qwen'" in refused.json()["error"]["message"]
    taken = post(gateway, **body, llamafactory={**CONFIG, "template": "qwen"})
    assert taken.status_code == 200, taken.text
    assert "template" not in messages(gateway.client(), taken.json()["id"])[1]
    other = post(gateway, **body, llamafactory={**CONFIG, "default_system": "Be brief."})
    assert other.json()["error"]["param"] == f"{K}.default_system"
    assert "Keep this" not in other.text


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"llamafactory": []}, K, "invalid_type"),
        ({"llamafactory": {"k" * 9999: 1}}, f"{K}.{'k' * 64}", "unknown_parameter"),
        ({"llamafactory": {f"k{n}": 1 for n in range(513)}}, K, "object_above_max_properties"),
        ({"llamafactory": CONFIG, "method": {"type": "dpo"}}, "method", "invalid_value"),
        ({"llamafactory": CONFIG, "hyperparameters": {}}, "hyperparameters", "invalid_value"),
        ({"llamafactory": {"lora_rank": {"a": [1] * 50}}}, f"{K}.lora_rank", "invalid_type"),
    ],
)
def test_a_config_of_another_shape_is_refused(
    gateway: Gateway, file_id: str, body: dict[str, Any], param: str, code: str
) -> None:
    answer = post(gateway, model="tiny", training_file=file_id, **body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
