"""Several replicas of a model behind one gateway: what affinity is worth, and what is limited."""

from __future__ import annotations

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from server.store import Store
from server.store.keys import hash_key
from server.store.models import insert_model
from server.store.records import Model, ModelKind
from tests.jobs.live import (
    KEY,
    Gateway,
    engines_of,
    running_gateway,
    running_supervisor,
    wait_until,
)
from tests.jobs.stories import create, say, wait_for
from tests.pool.conftest import metric, on_store, scripted, wait_connected


def _converse(client: openai.OpenAI, style: str) -> float:
    """Eight conversations of four turns each, in turn. Gives the share of later turns that found
    all of the turn before in a cache."""
    conversations: list[list[Any]] = [
        [{"role": "system", "content": f"{n} is your number, {style} reader. "}] for n in range(8)
    ]
    before = [0] * 8
    num_found = 0
    for at in range(4):
        for number, messages in enumerate(conversations):
            messages.append({"role": "user", "content": f"{style}: question {at} of {number}."})
            key = {"prompt_cache_key": f"{number}-{at}"} if style == "scattered" else {}
            usage = client.chat.completions.create(
                model="tiny", messages=messages, max_completion_tokens=2, temperature=0, **key
            ).usage
            num_found += at > 0 and usage.prompt_tokens_details.cached_tokens >= before[number] - 16
            before[number] = usage.prompt_tokens
            messages.append({"role": "assistant", "content": "Yes."})
    return num_found / 24


@pytest.mark.slow
def test_a_conversation_finds_its_prefix_in_its_replica(tmp_path: Path, tiny_model: Path) -> None:
    """Against keys of their own for every turn, which scatter the turns of a conversation."""
    entry = {"id": "tiny", "path": str(tiny_model), "engine": "hf", "device": "cpu", "replicas": 2}
    with running_gateway(tmp_path, {"models": [entry]}) as gateway, running_supervisor(tmp_path):
        wait_connected(gateway, 2)
        client = gateway.client()
        for number in range(4):  # an engine keeps as many prefixes as it once ran sequences
            client.chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": f"{number}"}],
                n=32,
                max_completion_tokens=64,
                extra_body={"ignore_eos": True},
            )
        assert _converse(client, "scattered") < 0.9
        assert _converse(client, "kept") == 1.0
        assert metric(gateway, "tuneyard_routed_total", by="prefix") >= 64


def _register_adapters(gateway: Gateway, folder: Path, count: int) -> list[str]:
    """Adapters of the first project, as finished jobs leave them."""
    names = [f"ft:tiny:{number}" for number in range(count)]

    async def register(store: Store) -> None:
        key = await store.keys.find(hash_key(KEY))
        assert key is not None
        async with store._database.write() as connection:
            for number, name in enumerate(names):
                path = folder / f"adapter{number}"
                path.mkdir()
                (path / "adapter_config.json").write_text("{}")
                model = Model(
                    id=name,
                    project_id=key.project.id,
                    kind=ModelKind.ADAPTER,
                    parent="tiny",
                    base="tiny",
                    engine_model="tiny",
                    path=str(path),
                    adapter_uid=9000 + number,
                    created_at=1,
                    owned_by="acme",
                    job_id=None,
                )
                await insert_model(connection, model)

    on_store(gateway, register)
    return names


def test_adapters_gather_and_a_deleted_one_goes_everywhere(tmp_path: Path) -> None:
    """Four adapters for two replicas with two places each: every one is loaded once."""
    entry = scripted([{"text": "I am {adapter}."}], replicas=2, max_loras=2)
    with running_gateway(tmp_path, {"models": [entry]}) as gateway, running_supervisor(tmp_path):
        wait_connected(gateway, 2)
        client = gateway.client()
        names = _register_adapters(gateway, tmp_path, 4)
        traffic = random.Random(3)
        for name in names + [traffic.choice(names) for _ in range(60)]:
            assert say(client, name) == f"I am {name}."
        wait_until(lambda: metric(gateway, "tuneyard_engine_adapter_hits_total") == 60)
        assert metric(gateway, "tuneyard_engine_adapter_loads_total") == 4
        assert metric(gateway, "tuneyard_routed_total", by="adapter") == 60
        assert metric(gateway, "tuneyard_engine_adapters") == 4

        async def delete(store: Store) -> None:
            """As another gateway does it: this one tells its engines nothing."""
            key = await store.keys.find(hash_key(KEY))
            assert key is not None
            assert await store.models.delete(names[0], key.project.id) is not None

        on_store(gateway, delete)
        wait_until(lambda: metric(gateway, "tuneyard_engine_adapters") == 3)


def test_a_replica_killed_while_it_loads_holds_up_no_job(
    tmp_path: Path,
    tiny_model: Path,
) -> None:
    """The other has the adapter by the time the job has succeeded; the killed one's successor
    loads it at the first request that it gets."""
    entry = scripted([{"text": "I am {adapter}."}], path=str(tiny_model), replicas=2)
    entry["settings"]["adapter_load_ms"] = 2000
    settings = {"models": [entry], "training": {"device": "cpu"}}
    with (
        running_gateway(tmp_path, settings) as gateway,
        running_supervisor(tmp_path) as supervisor,
    ):
        client = gateway.client()
        wait_connected(gateway, 2)
        job = create(client)
        events = gateway.data / "jobs" / job.id / "events.ndjson"
        wait_until(
            lambda: events.is_file() and '"completed"' in events.read_text(), interval_s=0.02
        )
        time.sleep(0.7)
        killed, survivor = engines_of(supervisor.pid)
        os.kill(killed.pid, signal.SIGKILL)
        done = wait_for(client, job.id)
        assert done.status == "succeeded"
        assert done.fine_tuned_model is not None
        assert metric(gateway, "tuneyard_engine_adapters") >= 1
        assert say(client, done.fine_tuned_model) == f"I am {done.fine_tuned_model}."
        wait_connected(gateway, 2)
        os.kill(survivor.pid, signal.SIGKILL)
        wait_until(lambda: _answers(client, done.fine_tuned_model or ""))


def _answers(client: openai.OpenAI, model: str) -> bool:
    try:
        return say(client, model) == f"I am {model}."
    except openai.InternalServerError:
        return False


def test_more_requests_than_max_concurrent_wait_and_more_than_max_queued_are_refused(
    tmp_path: Path,
) -> None:
    replies = [{"contains": "for ever", "tokens": ["tick "], "hangs": True}, {"text": "done"}]
    entry = scripted(replies, MAX_CONCURRENT=2, max_queued=2)
    with running_gateway(tmp_path, {"models": [entry]}) as gateway, running_supervisor(tmp_path):
        client = gateway.client()
        wait_connected(gateway, 1)
        inside = [
            client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "for ever"}], stream=True
            )
            for _ in range(2)
        ]
        with ThreadPoolExecutor(2) as threads:
            asked = [threads.submit(say, client, "tiny") for _ in range(2)]
            wait_until(lambda: metric(gateway, "tuneyard_line_waiting") == 2, interval_s=0.01)
            assert metric(gateway, "tuneyard_line_inside") == 2
            with pytest.raises(openai.InternalServerError) as refused:
                say(client, "tiny")
            for stream in inside:
                stream.close()
            assert [answer.result() for answer in asked] == ["done"] * 2
        assert refused.value.status_code == 503
        assert refused.value.code == "server_is_overloaded"
        assert int(refused.value.response.headers["retry-after"]) >= 1
        wait_until(lambda: metric(gateway, "tuneyard_line_inside") == 0)
        assert metric(gateway, "tuneyard_line_refused_total") == 1
