"""Adapters that model entries name: served beside their base without a job, new when their files
change, gone when they leave the configuration, and no trouble to the base when they are bad."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml
from openai import OpenAI

from server.engines.start_failures import read_failures
from tests.engine.models import load, make_adapter, merged
from tests.jobs.conftest import settings_for
from tests.jobs.live import OTHER_KEY, running_gateway, running_supervisor, wait_until
from tests.jobs.stories import create, say, wait_for

QUESTION = "What swims?"


def greedy(client: OpenAI, model: str) -> list[tuple[str, float]]:
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_completion_tokens=8,
        logprobs=True,
        extra_body={"ignore_eos": True},
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    return [(token.token, token.logprob) for token in logprobs.content or []]


def expected(folder: Path, model: Any) -> list[float]:
    """The logprobs of what transformers generates greedily from the same prompt."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_dict=False
    )
    found: list[float] = []
    for _ in range(8):
        with torch.inference_mode():
            scores = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        ids.append(int(scores.argmax()))
        found.append(float(scores.max()))
    return found


def listed(client: OpenAI) -> set[str]:
    return {model.id for model in client.models.list()}


def versions(data: Path) -> dict[str, tuple[int, bool]]:
    """Number, and whether it is gone, of each row of an adapter."""
    with closing(sqlite3.connect(data / "tuneyard.db")) as database:
        rows = database.execute(
            "SELECT id, adapter_uid, deleted_at IS NOT NULL FROM models WHERE kind = 'adapter'"
        )
        return {name: (uid, bool(gone)) for name, uid, gone in rows}


def test_good_adapters_answer_and_bad_ones_are_told_to_the_operator(
    tmp_path: Path, tiny_model: Path
) -> None:
    good = make_adapter(tiny_model, tmp_path / "good", 1)
    make_adapter(tiny_model, tmp_path / "wide", 2, r=16)
    make_adapter(tiny_model, tmp_path / "cut", 3)
    cut = tmp_path / "cut" / "adapter_model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    shutil.copytree(tiny_model, tmp_path / "other")
    stranger = make_adapter(tiny_model, tmp_path / "stranger", 4)
    config = Path(stranger.path) / "adapter_config.json"
    config.write_text(config.read_text().replace('"peft_type": "LORA"', '"peft_type": "IA3"'))
    names = ("good", "wide", "cut", "stranger", "missing")
    entry = {
        "id": "tiny",
        "path": str(tiny_model),
        "engine": "hf",
        "device": "cpu",
        "max_lora_rank": 8,
        "adapters": [{"id": f"my-{name}", "path": name} for name in names],
    }
    settings = {"models": [entry], "training": {"device": "cpu"}}
    with running_gateway(tmp_path, settings) as gateway, running_supervisor(tmp_path):
        client = gateway.client()
        wait_until(lambda: listed(client) == {"tiny", "my-good"})
        wait_until(lambda: len(read_failures(gateway.data / "run")) == 4)
        reasons = {f.part.adapter: f.reason for f in read_failures(gateway.data / "run")}
        for name, reason in {
            "my-wide": "rank 16 is over this engine's limit of 8: raise max_lora_rank",
            "my-cut": "its files cannot be read",
            "my-stranger": "its peft_type is 'IA3'",
            "my-missing": "there is no adapter_config.json",
        }.items():
            assert reason in reasons[name]
        ready = httpx.get(f"{gateway.url}/readyz")
        assert {part["adapter"] for part in ready.json()["not_starting"]} == set(reasons)
        assert str(tmp_path) not in ready.text
        for name in ("my-wide", "my-missing"):
            with pytest.raises(openai.BadRequestError, match="could not be loaded") as unloaded:
                greedy(client, name)
            assert (unloaded.value.code, unloaded.value.param) == ("model_not_loaded", "model")
            assert str(tmp_path) not in unloaded.value.message
        with pytest.raises(openai.NotFoundError) as absent:
            greedy(client, "my-other")
        assert absent.value.code == "model_not_found"
        for model, weights in (("tiny", load(tiny_model)), ("my-good", merged(tiny_model, good))):
            found = [logprob for _, logprob in greedy(client, model)]
            assert found == pytest.approx(expected(tiny_model, weights), abs=1e-3)
        assert greedy(gateway.client(OTHER_KEY), "my-good") == greedy(client, "my-good")
        shown = client.models.retrieve("my-good").model_dump()
        assert (shown["parent"], shown["root"], shown["owned_by"]) == ("tiny", "tiny", "tuneyard")
        with pytest.raises(openai.PermissionDeniedError, match="configuration") as refused:
            client.models.delete("my-good")
        assert refused.value.code == "model_not_allowed"
        metrics = httpx.get(f"{gateway.url}/metrics").text
        for name in ("adapters", "adapter_hits_total", "adapter_loads_total"):
            assert f"tuneyard_engine_{name}{{" in metrics
        job = wait_for(client, create(client, model="my-good").id)
        assert job.status == "succeeded"
        assert job.fine_tuned_model is not None
        tuned = client.models.retrieve(job.fine_tuned_model).model_dump()
        assert (tuned["parent"], tuned["root"]) == ("my-good", "tiny")
        assert greedy(client, job.fine_tuned_model) != greedy(client, "my-good")


def test_a_new_version_has_a_new_name_and_one_that_left_is_gone(
    tmp_path: Path, tiny_model: Path
) -> None:
    """The engine here says by which name it knows an adapter."""
    make_adapter(tiny_model, tmp_path / "style", 1)
    settings = settings_for(tiny_model)
    [base] = settings["models"]  # type: ignore[misc]
    with running_gateway(tmp_path, settings) as gateway:
        client = gateway.client()
        path = tmp_path / "tuneyard.yaml"
        plain = yaml.safe_load(path.read_text())

        def configure(**changes: Any) -> None:
            path.write_text(yaml.safe_dump({**plain, "models": [{**base, **changes}]}))

        def said() -> str | None:
            try:
                return say(client, "my-style")
            except (openai.BadRequestError, openai.NotFoundError, openai.InternalServerError):
                return None

        configure(adapters=[{"id": "my-style", "path": "style"}])
        with running_supervisor(tmp_path):
            wait_until(lambda: said() is not None)
            first = said()
        make_adapter(tiny_model, tmp_path / "style", 2)
        with running_supervisor(tmp_path):
            wait_until(lambda: said() not in (None, first))
            second = said()
        assert len({uid for uid, _ in versions(gateway.data).values()}) == 2
        make_adapter(tiny_model, tmp_path / "style", 1)
        with running_supervisor(tmp_path):
            wait_until(lambda: said() == first)
        assert second is not None
        gone = second.removeprefix("I am ").removesuffix(".")
        found = versions(gateway.data)
        assert found.keys() == {"my-style", gone}
        assert (found["my-style"][1], found[gone][1]) == (False, True)
        configure()
        with running_supervisor(tmp_path):
            wait_until(lambda: listed(client) == {"tiny"})
        assert all(gone for _, gone in versions(gateway.data).values())
