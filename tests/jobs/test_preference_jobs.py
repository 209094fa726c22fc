"""Jobs of the method dpo through the API, on an engine that answers with what was trained."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.jobs.live import running_gateway, running_supervisor
from tests.jobs.stories import create, lines, messages, rows, upload, wait_for
from tests.trainer.test_pairs import pair

KNOBS = "method.dpo.hyperparameters"
QUESTION = "What swims?"
ROWS = [pair(f"{QUESTION} {n}", "A blue whale.", "I will not say.") for n in range(12)]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Generator[OpenAI]:
    folder = tmp_path_factory.mktemp("preferences")
    entry = {"id": "tiny", "path": str(tiny_model), "engine": "hf", "device": "cpu"}
    settings: dict[str, object] = {"models": [entry], "training": {"device": "cpu"}}
    with running_gateway(folder, settings) as gateway, running_supervisor(folder):
        yield gateway.client()


def dpo(**knobs: Any) -> dict[str, Any]:
    return {"method": {"type": "dpo", "dpo": {"hyperparameters": knobs}}}


def ask(client: OpenAI, model: str) -> str | None:
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": f"{QUESTION} 1"}],
        temperature=0,
        max_completion_tokens=16,
    )
    return answer.choices[0].message.content


def test_a_job_prefers_what_it_was_told_to_and_its_model_answers(client: OpenAI) -> None:
    wanted = dpo(n_epochs=3, batch_size=4, learning_rate_multiplier=5.0, pref_ftx=0.5)
    file = upload(client, lines(ROWS))
    valid = upload(client, lines(ROWS[:3]))
    job = create(client, file, seed=1, validation_file=valid, **wanted)
    assert job.method is not None
    assert job.method.dpo is not None
    assert job.method.dpo.hyperparameters is not None
    assert job.method.dpo.hyperparameters.beta == "auto"
    done = wait_for(client, job.id)
    assert done.status == "succeeded", (done.error, messages(client, job.id))
    assert done.method is not None
    assert done.method.to_dict()["type"] == "dpo"
    settled = done.method.to_dict()["dpo"]["hyperparameters"]  # type: ignore[index]
    assert (settled["beta"], settled["pref_ftx"], settled["pref_loss"]) == (0.1, 0.5, "sigmoid")
    assert done.hyperparameters.to_dict() == {}
    events = [*client.fine_tuning.jobs.list_events(job.id, limit=100)][::-1]
    seen: list[Any] = [e.data for e in events if e.type == "metrics"]
    assert seen[-1]["train_loss"] < seen[0]["train_loss"]
    assert seen[-1]["train_reward_margin"] > seen[0]["train_reward_margin"]
    assert seen[-1]["train_reward_accuracy"] == 1.0
    assert seen[-1]["full_valid_reward_margin"] > 0
    tuned = done.fine_tuned_model
    assert tuned is not None
    assert ask(client, tuned) != ask(client, "tiny")
    table = client.files.content(done.result_files[0]).text.splitlines()
    assert "train_reward_margin" in table[0]
    again = create(client, file, model=tuned, **dpo(n_epochs=1, beta=1, pref_loss="hinge"))
    assert wait_for(client, again.id).status == "succeeded"


def test_bad_rows_are_refused_with_their_lines(client: OpenAI) -> None:
    two = pair("a", "b", "c")
    two["preferred_output"] *= 2
    said_by_user = pair("a", "b", "c")
    said_by_user["non_preferred_output"][0]["role"] = "user"
    missing = pair("a", "b", "c")
    del missing["non_preferred_output"]
    bad = [two, said_by_user, missing, *rows(1), {"input": {}, "preferred_output": []}]
    job = create(client, upload(client, lines([*ROWS, *bad])), **dpo())
    done = wait_for(client, job.id)
    assert done.error is not None
    assert (done.error.code, done.error.param) == ("invalid_training_file", "training_file")
    for said in (
        "Example 13, 'preferred_output' must be one message of the assistant",
        "Example 14, 'non_preferred_output' must be one message of the assistant",
        "Example 15, 'non_preferred_output' must be a non-empty array",
        "Example 16, the row is in the fine-tune-chat format, but the job is not using "
        "'supervised' as the training method (provided method=dpo)",
        "Example 17, 'messages' must be a non-empty array",
        "(5 bad lines in all)",
    ):
        assert said in done.error.message
    supervised = wait_for(client, create(client, upload(client, lines(ROWS))).id)
    assert supervised.error is not None
    assert "train with method.type 'dpo'" in supervised.error.message


@pytest.mark.parametrize(
    ("knobs", "name", "said"),
    [
        ({"beta": 0}, "beta", "Expected a value > 0"),
        ({"beta": 2.5}, "beta", "Expected a value <= 2"),
        ({"mask_history": True}, "mask_history", "belongs to stage sft"),
        ({"packing": True}, "packing", "belongs to stage pt or sft"),
        ({"simpo_gamma": 1.0}, "simpo_gamma", "belongs to pref_loss 'simpo'"),
        ({"pref_loss": "magic"}, "pref_loss", "kto_pair"),
        ({"lora_rank": 500}, "lora_rank", "rank"),
        ({"finetuning_type": "full", "lora_rank": 4}, "lora_rank", "finetuning_type lora"),
        ({"learning_rate_multiplier": 10000.0}, "learning_rate_multiplier", "diverges"),
        ({"eval_steps": 3}, "eval_steps", "validation_file"),
    ],
)
def test_what_is_out_of_place_is_refused_by_its_name(
    client: OpenAI, knobs: dict[str, Any], name: str, said: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=said) as error:
        create(client, upload(client, lines(ROWS)), **dpo(**knobs))
    assert error.value.param is not None
    assert error.value.param.startswith(f"{KNOBS}.{name}")


def test_parameters_of_dpo_are_refused_elsewhere(client: OpenAI) -> None:
    for name, value in (("pref_ftx", 0.5), ("beta", 0.1)):
        with pytest.raises(openai.BadRequestError, match="It belongs to stage dpo") as error:
            create(client, hyperparameters={name: value})
        assert error.value.param == f"method.supervised.hyperparameters.{name}"
