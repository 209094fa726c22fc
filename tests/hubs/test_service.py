"""A base model named by a hub id: downloaded in sight, served and trained, by the real service."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from server.config import Config, ConfigError, load_config
from server.hubs.names import Hub
from tests.hubs.local_hub import COMMIT, LocalHub, running_hub
from tests.jobs.live import GUARD_S, free_port, running_gateway, running_supervisor, wait_until
from tests.jobs.stories import create, lines, upload, wait_for

ROOT = Path(__file__).parents[2]


def use(hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**hub.environ, "HF_HOME": str(cache)}.items():
        monkeypatch.setenv(name, value)


def ask(url: str, key: str, model: str = "m") -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=120)


@pytest.mark.slow
def test_a_hubs_model_is_served_and_trained_on_the_same_files(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    entry = {"id": "tiny", "path": "owner/model", "engine": "hf", "device": "cpu"}
    settings = {"models": [entry], "training": {"device": "cpu", "warm_trainers": 0}}
    example = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    with running_hub(tiny_model) as hub:
        use(hub, cache, monkeypatch)
        with running_gateway(tmp_path, settings) as gateway, running_supervisor(tmp_path):
            client = gateway.client()
            wait_until(lambda: ask(gateway.url, client.api_key, "tiny").status_code == 200)
            file = upload(client, lines([{"messages": [*example]}] * 10))
            job = create(client, file, hyperparameters={"n_epochs": 1, "max_steps": 2})
            done = wait_for(client, job.id)
            assert done.status == "succeeded", done.error
            assert ask(gateway.url, client.api_key, str(done.fine_tuned_model)).status_code == 200
    specs = list((tmp_path / "data" / "jobs").glob("*/spec.json"))
    directory = cache / "hub" / "models--owner--model" / "snapshots" / COMMIT
    assert directory.is_dir()
    assert all(str(directory) in spec.read_text() for spec in specs)


def test_a_download_is_seen_survives_a_kill_and_is_not_needed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    (remote / "config.json").write_text("{}")
    (remote / "model.safetensors").write_bytes(os.urandom(2 << 20))
    scripted = {"engine": "scripted", "template": "qwen3", "settings": {}}
    port = free_port()
    config = {
        "port": port,
        "api_key": "sk-test",
        "models": [{"id": "m", "path": "owner/model", "hub": "modelscope", **scripted}],
    }
    (tmp_path / "tuneyard.yaml").write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{port}"
    output = tmp_path / "output.txt"

    def start() -> subprocess.Popen[bytes]:
        with output.open("wb") as out:
            command = [sys.executable, "-m", "server.cli", "serve", "-c", "tuneyard.yaml"]
            env = {**os.environ, "PYTHONPATH": str(ROOT)}
            return subprocess.Popen(command, cwd=tmp_path, env=env, stdout=out, stderr=out)

    def percent() -> int:
        try:
            downloads = httpx.get(f"{url}/readyz").json().get("downloads", [])
        except httpx.TransportError:
            return 0
        return max(
            [100 * d["done_bytes"] // max(d["total_bytes"], 1) for d in downloads], default=0
        )

    with running_hub(remote) as hub:
        use(hub, tmp_path / "hf", monkeypatch)
        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
        hub.behaviour.bytes_per_s = 100_000
        process = start()
        wait_until(lambda: percent() >= 10)
        refused = ask(url, "sk-test")
        assert refused.status_code == 503
        assert "downloading" in refused.json()["error"]["message"]
        assert " %" in refused.json()["error"]["message"]
        shown = "m: downloading owner/model@master of ModelScope"
        wait_until(lambda: shown in output.read_text())
        process.send_signal(signal.SIGKILL)
        process.wait()
        hub.behaviour.bytes_per_s = None
        process = start()
        wait_until(lambda: "Ready: " in output.read_text())
        process.send_signal(signal.SIGINT)
        process.wait(GUARD_S)
        asked = [wanted for name, wanted in hub.behaviour.log if name == "model.safetensors"]
        assert asked[0] is None
        assert asked[1] is not None, "the second start began anew"
        assert len(asked) == 2
    process = start()
    wait_until(lambda: "Ready: " in output.read_text())
    assert ask(url, "sk-test").status_code == 200
    process.send_signal(signal.SIGINT)
    process.wait(GUARD_S)


def test_what_a_hub_refuses_is_shown_to_the_operator_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"id": "m", "path": "owner/model", "engine": "scripted", "hub": "huggingface"}
    (tmp_path / "remote").mkdir()
    (tmp_path / "remote" / "config.json").write_text("{}" * 4000)
    with running_hub(tmp_path / "remote") as hub:
        hub.behaviour.gated = True
        use(hub, tmp_path, monkeypatch)
        with (
            running_gateway(tmp_path, {"models": [entry]}) as gateway,
            running_supervisor(tmp_path),
        ):

            def states() -> str:
                return httpx.get(f"{gateway.url}/readyz").text

            wait_until(lambda: "Accept its terms" in states())
            key = gateway.client().api_key
            message = ask(gateway.url, key).json()["error"]["message"]
            assert message == "The model 'm' is not downloaded yet. Please retry."
            hub.behaviour.gated = False
            wait_until(lambda: '"status":"ok"' in states())


def read(folder: Path, entry: dict[str, object], environ: dict[str, str] | None = None) -> Config:
    (folder / "tuneyard.yaml").write_text(yaml.safe_dump({"models": [{"id": "m", **entry}]}))
    return load_config(folder / "tuneyard.yaml", environ or {})


def test_a_path_that_is_no_directory_is_a_name_on_the_chosen_hub(tmp_path: Path) -> None:
    (tmp_path / "owner" / "model").mkdir(parents=True)
    assert read(tmp_path, {"path": "owner/model"}).models[0].hub is None
    assert read(tmp_path, {"path": "owner/model", "hub": "modelers"}).models[0].hub is Hub.MODELERS
    assert read(tmp_path, {"path": "owner/other"}).models[0].hub is Hub.HUGGINGFACE
    by_variable = {"USE_MODELSCOPE_HUB": Hub.MODELSCOPE, "USE_OPENMIND_HUB": Hub.MODELERS}
    for variable, hub in by_variable.items():
        assert read(tmp_path, {"path": "owner/other"}, {variable: "1"}).models[0].hub is hub
        assert read(tmp_path, {"path": "a/b"}, {variable: "0"}).models[0].hub is Hub.HUGGINGFACE


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"path": "./missing"}, "no directory"),
        ({"path": "/missing/model"}, "no directory"),
        ({"path": "a/../b"}, "no directory"),
        ({"path": ".", "revision": "main"}, "revision is for a model from a hub"),
        ({"path": ".", "hub_token": "x"}, "hub_token is for a model from a hub"),
        ({"path": "a/b", "revision": "../x"}, "revision"),
        ({"path": "a/b", "hub": "civitai"}, "'huggingface', 'modelscope' or 'modelers'"),
    ],
)
def test_a_place_that_cannot_be_is_refused_at_start(
    tmp_path: Path, entry: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, entry)
