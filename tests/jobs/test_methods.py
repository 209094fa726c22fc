"""Jobs of every method beside supervised and dpo, on an engine that answers with what was
trained."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from server.fine_tuning.methods import METHODS
from tests.jobs.live import running_gateway, running_supervisor
from tests.jobs.stories import create, lines, messages, rows, upload, wait_for
from tests.jobs.test_preference_jobs import ROWS as PAIRS
from tests.jobs.test_preference_jobs import ask
from tests.trainer.conftest import build_tokenizer
from workers.contract.parameters import Stage

LABELLED: list[dict[str, Any]] = [
    {"messages": [*row["input"]["messages"], *row[side]], "label": label}
    for side, label in (("preferred_output", True), ("non_preferred_output", False))
    for row in PAIRS[:6]
]
TEXTS = [{"text": f"Line {n} of a song that goes on and on."} for n in range(12)]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Generator[OpenAI]:
    folder = tmp_path_factory.mktemp("methods")
    entry = {"id": "tiny", "path": str(tiny_model), "engine": "hf", "device": "cpu"}
    long = {**entry, "id": "stretched", "settings": {"rope_scaling": "linear"}}
    settings: dict[str, object] = {
        "models": [entry, {**long, "max_model_len": 512}],
        "training": {"device": "cpu"},
    }
    with running_gateway(folder, settings) as gateway, running_supervisor(folder):
        yield gateway.client(strict=False)


def method(name: str, **knobs: Any) -> dict[str, Any]:
    return {"method": {"type": name, name: {"hyperparameters": knobs}}}


def finished(
    client: OpenAI, items: list[dict[str, Any]], name: str, **knobs: Any
) -> tuple[FineTuningJob, list[Any]]:
    """The job, and the metrics of its steps."""
    knobs = {"n_epochs": 3, "batch_size": 4, **knobs}
    job = create(client, upload(client, lines(items)), seed=1, **method(name, **knobs))
    done = wait_for(client, job.id)
    assert done.status == "succeeded", (done.error, messages(client, job.id))
    assert done.method is not None
    assert done.method.to_dict()["type"] == name
    events = [*client.fine_tuning.jobs.list_events(job.id, limit=100)][::-1]
    return done, [event.data for event in events if event.type == "metrics"]


def settled(job: FineTuningJob) -> dict[str, Any]:
    assert job.method is not None
    content: dict[str, Any] = job.method.to_dict()
    return content[content["type"]]["hyperparameters"]


def test_labelled_answers_make_a_model_that_answers(client: OpenAI) -> None:
    knobs = {"learning_rate_multiplier": 10.0, "kto_rejected_weight": 1.5, "pref_beta": 0.3}
    job, told = finished(client, LABELLED, "kto", **{**knobs, "n_epochs": 8, "batch_size": 12})
    assert settled(job)["beta"] == "auto"
    assert {name: settled(job)[name] for name in ("pref_beta", "kto_rejected_weight")} == {
        "pref_beta": 0.3,
        "kto_rejected_weight": 1.5,
    }
    assert told[-1]["train_loss"] < told[0]["train_loss"]
    assert told[-1]["train_reward_margin"] > told[0]["train_reward_margin"]
    assert {"train_kl", "train_reward_chosen", "train_reward_rejected"} <= told[0].keys()
    assert job.fine_tuned_model is not None
    assert ask(client, job.fine_tuned_model) != ask(client, "tiny")


def test_orpo_prefers_what_it_was_told_to_and_its_model_answers(client: OpenAI) -> None:
    job, told = finished(client, PAIRS, "orpo", learning_rate_multiplier=10.0, beta=0.2)
    assert (settled(job)["pref_loss"], settled(job)["beta"]) == ("orpo", 0.2)
    assert told[-1]["train_loss"] < told[0]["train_loss"]
    assert told[-1]["train_reward_margin"] > told[0]["train_reward_margin"]
    assert job.fine_tuned_model is not None
    assert ask(client, job.fine_tuned_model) != ask(client, "tiny")


def test_plain_text_makes_a_model_that_answers(client: OpenAI) -> None:
    job, told = finished(client, TEXTS, "pretrain", learning_rate_multiplier=3.0, packing=True)
    assert told[-1]["train_loss"] < told[0]["train_loss"]
    assert job.fine_tuned_model is not None
    assert ask(client, job.fine_tuned_model) != ask(client, "tiny")


def test_a_reward_model_scores_at_once_and_does_not_chat(client: OpenAI) -> None:
    job, told = finished(client, PAIRS, "reward_model", learning_rate_multiplier=2.0)
    assert told[-1]["train_loss"] < told[0]["train_loss"]
    assert told[-1]["train_reward_accuracy"] == 1.0
    model = job.fine_tuned_model
    assert model is not None
    chosen = scores(client, model, "preferred_output")
    rejected = scores(client, model, "non_preferred_output")
    assert all(better > worse for better, worse in zip(chosen, rejected, strict=True))
    with pytest.raises(openai.BadRequestError, match="only scores text") as refused:
        ask(client, model)
    assert (refused.value.code, refused.value.param) == ("model_not_supported", "model")
    with pytest.raises(openai.BadRequestError, match="'tiny' serves no scores"):
        scores(client, "tiny", "preferred_output")
    with pytest.raises(openai.BadRequestError, match="is a reward model") as refused:
        create(client, "file-none", model=model)
    assert refused.value.param == "method.supervised.hyperparameters.finetuning_type"


def test_a_reward_model_teaches_a_policy_that_answers_at_once(client: OpenAI) -> None:
    judge, _ = finished(client, PAIRS, "reward_model", learning_rate_multiplier=2.0)
    assert judge.fine_tuned_model is not None
    knobs = {"reward_model": judge.fine_tuned_model, "max_new_tokens": 8, "ppo_epochs": 2}
    job, told = finished(client, rows(12), "ppo", learning_rate_multiplier=10.0, **knobs)
    assert settled(job)["reward_model"] == judge.fine_tuned_model
    names = {"train_reward", "train_kl", "train_policy_loss", "train_value_loss"}
    assert len(told) == 9
    assert all(names <= each.keys() for each in told)
    assert told[0]["train_kl"] == pytest.approx(0, abs=1e-3)
    assert abs(told[-1]["train_kl"]) > 1e-3
    assert job.fine_tuned_model is not None
    assert ask(client, job.fine_tuned_model) is not None
    assert settled(job)["max_new_tokens"] == 8
    file = upload(client, lines(rows(12)))
    with pytest.raises(openai.BadRequestError, match="leave it out, or set 'full'") as refused:
        create(client, file, **method("ppo", **knobs, reward_model_type="lora"))
    assert refused.value.param == "method.ppo.hyperparameters.reward_model_type"


@pytest.mark.parametrize(
    ("knobs", "param", "said"),
    [
        ({}, "reward_model", "Missing required parameter"),
        ({"reward_model": "tiny"}, "reward_model", "is no reward model"),
        ({"reward_model": "ft:none"}, "reward_model", "There is no model 'ft:none'"),
        (
            {"reward_model": "http://10.0.0.1/x", "reward_model_type": "api"},
            "reward_model",
            "training.reward_hosts",
        ),
        ({"reward_model": "tiny", "val_size": 0.5}, "val_size", "belongs to stage"),
        ({"reward_model": "tiny", "top_p": 0.0}, "top_p", "Expected a value > 0"),
        ({"reward_model": "tiny", "beta": 0.1}, "beta", "belongs to stage dpo or kto"),
    ],
)
def test_a_policys_judge_is_checked_when_the_job_is_made(
    client: OpenAI, knobs: dict[str, Any], param: str, said: str
) -> None:
    file = upload(client, lines(rows(12)))
    with pytest.raises(openai.BadRequestError, match=said) as error:
        create(client, file, **method("ppo", **knobs))
    assert error.value.param == f"method.ppo.hyperparameters.{param}"


def test_a_policy_takes_no_validation_file(client: OpenAI) -> None:
    file, valid = (upload(client, lines(rows(12))) for _ in range(2))
    with pytest.raises(openai.BadRequestError, match="has no loss on rows") as error:
        create(client, file, validation_file=valid, **method("ppo", reward_model="tiny"))
    assert error.value.param == "validation_file"


def scores(client: OpenAI, model: str, side: str) -> list[float]:
    tokenizer = build_tokenizer()
    texts = [
        tokenizer.apply_chat_template([*row["input"]["messages"], *row[side]], tokenize=False)
        for row in PAIRS
    ]
    body = {"model": model, "messages": texts}
    answer: Any = client.post("/score/evaluation", cast_to=object, body=body)
    found: list[float] = answer["scores"]
    assert len(found) == len(texts)
    return found


@pytest.mark.parametrize(
    ("name", "knobs", "param", "said"),
    [
        ("orpo", {"pref_loss": "simpo"}, "pref_loss", "It is 'orpo' for method.type 'orpo'"),
        ("simpo", {"pref_loss": "sigmoid"}, "pref_loss", "It is 'simpo' for method.type"),
        ("orpo", {"simpo_gamma": 1.0}, "simpo_gamma", "belongs to pref_loss 'simpo'"),
        ("kto", {"pref_loss": "sigmoid"}, "pref_loss", "belongs to stage dpo"),
        ("dpo", {"kto_chosen_weight": 2.0}, "kto_chosen_weight", "belongs to stage kto"),
        ("reward_model", {"beta": 0.1}, "beta", "belongs to stage dpo or kto"),
        ("pretrain", {"pref_ftx": 0.1}, "pref_ftx", "belongs to stage dpo or kto"),
        ("pretrain", {"train_on_prompt": True}, "train_on_prompt", "belongs to stage sft"),
        ("kto", {"packing": True}, "packing", "belongs to stage pt or sft"),
        ("kto", {"beta": 0.1, "pref_beta": 0.2}, "pref_beta", "exclude each other"),
        ("simpo", {"pref_beta": 1000.0}, "pref_beta", "Expected a value <= 100"),
        ("kto", {"kto_chosen_weight": -1}, "kto_chosen_weight", "Expected a value >= 0"),
    ],
)
def test_what_is_out_of_place_is_refused_by_its_name(
    client: OpenAI, name: str, knobs: dict[str, Any], param: str, said: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=said) as error:
        create(client, "file-none", **method(name, **knobs))
    assert error.value.param == f"method.{name}.hyperparameters.{param}"


def test_a_reward_model_that_no_engine_would_serve_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="served with rope_scaling") as error:
        create(client, "file-none", model="stretched", **method("reward_model"))
    assert (error.value.param, error.value.code) == ("method.type", "unsupported_value")


@pytest.mark.parametrize(
    ("name", "items", "said"),
    [
        ("kto", rows(12), "the row has no 'label'"),
        ("kto", PAIRS, "this is a row of preferences, for method.type 'dpo'"),
        ("pretrain", rows(12), "pretraining takes rows of the form"),
        ("reward_model", rows(12), "(provided method=reward_model)"),
        ("simpo", LABELLED, "this is a row of the KTO method"),
        ("supervised", LABELLED, "train with method.type 'kto'"),
    ],
)
def test_rows_of_another_method_are_told_where_they_belong(
    client: OpenAI, name: str, items: list[dict[str, Any]], said: str
) -> None:
    job = create(client, upload(client, lines(items)), **method(name))
    done = wait_for(client, job.id)
    assert done.error is not None
    assert done.error.code == "invalid_training_file"
    assert said in done.error.message


def test_every_stage_has_a_method() -> None:
    assert {each.stage for each in METHODS.values()} == set(Stage)
