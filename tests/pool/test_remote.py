"""Engine workers on other hosts: joined by a token, sent their adapters, lost and found again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import openai
import pytest
from openai import OpenAI

from tests.jobs.live import GUARD_S, running_gateway, running_supervisor, wait_until
from tests.jobs.stories import create, lines, upload, wait_for
from tests.pool.conftest import (
    RemoteHost,
    metric,
    num_connected,
    remote_entry,
    scripted,
    wait_connected,
)

SECRET = "It is a blue whale."
StartHost = Callable[..., RemoteHost]


def ask(client: OpenAI, model: str, question: str = "What swims?") -> str | None:
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_completion_tokens=24,
    )
    return answer.choices[0].message.content


@pytest.mark.slow
def test_a_fine_tune_answers_from_every_host(
    tmp_path: Path,
    tiny_model: Path,
    start_host: StartHost,
) -> None:
    """Two hosts with the model's files only. The adapter is sent before the job succeeds, is kept
    through the death of a worker, and is removed with the model."""
    copy = shutil.copytree(tiny_model, tmp_path / "elsewhere")
    entry = {"id": "tiny", "path": str(copy), "engine": "hf", "device": "cpu"}
    first, second = start_host(entry), start_host(entry)
    service = remote_entry(tmp_path, [first, second], {**entry, "path": str(tiny_model)})
    settings = {"models": [service], "training": {"device": "cpu"}}
    row = {
        "messages": [
            {"role": "user", "content": "What swims?"},
            {"role": "assistant", "content": SECRET},
        ]
    }
    with running_gateway(tmp_path, settings) as gateway, running_supervisor(tmp_path):
        client = gateway.client()
        wait_connected(gateway, 2)
        knobs = {"n_epochs": 20, "batch_size": 2, "learning_rate_multiplier": 1.0}
        job = create(client, upload(client, lines([row] * 12)), hyperparameters=knobs)
        tuned = wait_for(client, job.id, timeout_s=240).fine_tuned_model
        assert tuned is not None
        assert [len(first.stored), len(second.stored)] == [1, 1]
        before = [path.stat().st_ino for path in second.stored]
        second.kill_worker()
        first.end()
        wait_until(lambda: num_connected(gateway) == 1)
        assert ask(client, tuned) == SECRET
        assert SECRET not in (ask(client, "tiny") or "")
        assert [path.stat().st_ino for path in second.stored] == before
        shutil.rmtree(first.data / "hosted-adapters")
        first.start()
        wait_connected(gateway, 2)
        second.end()
        wait_until(lambda: num_connected(gateway) == 1)
        assert ask(client, tuned) == SECRET
        assert metric(gateway, "tuneyard_engine_adapters_sent_total") == 1
        client.models.delete(tuned)
        wait_until(lambda: first.stored == [])
        with pytest.raises(openai.NotFoundError):
            ask(client, tuned)


def test_an_adapter_of_the_entry_is_sent_to_another_host(
    tmp_path: Path, start_host: StartHost
) -> None:
    (tmp_path / "style").mkdir()
    (tmp_path / "style" / "adapter_config.json").write_text("{}")
    (tmp_path / "style" / "adapter_model.safetensors").write_bytes(b"weights")
    entry = scripted([{"text": "I am {adapter}."}])
    host = start_host(entry)
    adapters = [{"id": "my-style", "path": "style"}]
    settings = {"models": [remote_entry(tmp_path, [host], {**entry, "adapters": adapters})]}
    with running_gateway(tmp_path, settings) as gateway, running_supervisor(tmp_path):
        wait_until(lambda: len(host.stored) == 1)
        assert (host.stored[0] / "adapter_model.safetensors").read_bytes() == b"weights"
        answer = ask(gateway.client(), "my-style")
        assert answer is not None
        assert answer.startswith("I am my-style@")


def test_a_worker_that_is_told_to_leave_ends_its_streams_first(
    tmp_path: Path, start_host: StartHost
) -> None:
    replies = [
        {"contains": "slow", "tokens": ["tick "], "repeat": 40, "delay_ms": 50},
        {"text": "quick"},
    ]
    entry = scripted(replies)
    hosts = [start_host(entry), start_host(entry)]
    settings = {"models": [remote_entry(tmp_path, hosts, entry)]}
    with running_gateway(tmp_path, settings) as gateway, running_supervisor(tmp_path):
        client = gateway.client()
        wait_connected(gateway, 2)
        streams = [
            client.chat.completions.create(
                model="tiny", stream=True, messages=[{"role": "user", "content": f"slow {number}"}]
            )
            for number in range(8)
        ]
        first = [next(iter(stream)) for stream in streams]
        hosts[0].process.send_signal(signal.SIGTERM)
        wait_until(
            lambda: (
                metric(gateway, "tuneyard_engines_draining") == 1 or num_connected(gateway) == 1
            ),
            interval_s=0.02,
        )
        assert [ask(client, "tiny", f"question {number}") for number in range(10)] == ["quick"] * 10
        for stream, chunk in zip(streams, first, strict=True):
            texts = [c.choices[0].delta.content or "" for c in [chunk, *stream]]
            assert "".join(texts) == "tick " * 40
        assert hosts[0].process.wait(GUARD_S) == 0
        wait_until(lambda: num_connected(gateway) == 1)
        assert ask(client, "tiny") == "quick"


def test_a_worker_that_hangs_gets_no_new_requests(tmp_path: Path, start_host: StartHost) -> None:
    entry = scripted([{"text": "quick"}])
    hosts = [start_host(entry), start_host(entry)]
    settings = {"models": [remote_entry(tmp_path, hosts, entry)]}
    with running_gateway(tmp_path, settings) as gateway, running_supervisor(tmp_path):
        client = gateway.client().with_options(timeout=3)
        wait_connected(gateway, 2)
        pid = hosts[0].worker_pid()
        try:
            os.kill(pid, signal.SIGSTOP)

            def all_answered() -> bool:
                try:
                    return all(ask(client, "tiny", f"{n}") == "quick" for n in range(8))
                except openai.APITimeoutError:
                    return False

            assert not all_answered()
            wait_until(all_answered)
        finally:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("changes", "trouble"),
    [
        ({"token": "another secret"}, "connection closed"),
        ({"max_model_len": 77}, "max_model_len is not that of the other replicas"),
        ({"id": "other"}, "serves 'other'"),
    ],
)
def test_a_worker_that_does_not_fit_is_not_used(
    tmp_path: Path, start_host: StartHost, changes: dict[str, object], trouble: str
) -> None:
    entry = scripted([{"text": "quick"}])
    token = changes.pop("token", None)
    host = start_host({**entry, **changes})
    service = remote_entry(tmp_path, [host], entry, replicas=1)
    if token is not None:
        (tmp_path / "token").write_text(str(token))
    with running_gateway(tmp_path, {"models": [service]}) as gateway, running_supervisor(tmp_path):
        log = tmp_path / "supervisor.log"
        wait_until(lambda: trouble in log.read_text())
        wait_connected(gateway, 1)
        assert [ask(gateway.client(), "tiny", f"{n}") for n in range(4)] == ["quick"] * 4
        told = httpx.get(f"{gateway.url}/readyz").json()["not_starting"]
        assert told == [{"model": "tiny", "engine": "address 1", "adapter": None}]


def test_a_stranger_is_heard_no_further_than_a_greeting(start_host: StartHost) -> None:
    host = start_host(scripted([{"text": "quick"}]))
    name, _, port = host.address.removeprefix("tcp:").rpartition(":")

    def refused() -> bool:
        try:
            with socket.create_connection((name, int(port)), timeout=5) as stranger:
                stranger.sendall((200_000_000).to_bytes(4, "little") + b"x" * 8192)
                return stranger.recv(1) == b""
        except ConnectionResetError:
            return True
        except ConnectionRefusedError:
            return False

    wait_until(refused)
