"""`tuneyard serve` as an operator runs it: one command, a ready line, Ctrl-C, nothing left."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from server.cli.gateway import DRAIN_TIMEOUT_S
from tests.gateway.conftest import DEADLINE_S, user, wait_for

BUNDLED = Path(__file__).parents[2] / "deploy" / "model" / "tuneyard-mini"
CONFIG = """
data: data
port: 0
models:
  - id: scripted-model
    path: .
    engine: scripted
    template: qwen3
    settings:
      replies:
        - {contains: hi, text: hello}
        - {contains: some time, tokens: ["tick "], repeat: 50, delay_ms: 30}
        - {contains: for ever, tokens: ["tick "], hangs: true}
"""


WRONG_TEMPLATE = (
    CONFIG
    + """
      chat_templates:
        default: "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}"
"""
)


class Service:
    def __init__(self, folder: Path, config: str = CONFIG, until: str = "Ready: ") -> None:
        self.output = folder / "output.txt"
        (folder / "tuneyard.yaml").write_text(config)
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "server.cli", "serve", "-c", str(folder / "tuneyard.yaml")],
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        wait_for(lambda: until in self.output.read_text())

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def find(self, pattern: str) -> str:
        found = re.search(pattern, self.output.read_text())
        assert found is not None, self.output.read_text()
        return found[1]

    def client(self) -> openai.OpenAI:
        url, key = self.find(r"URL +(\S+)"), self.find(r"API key +(\S+)")
        return openai.OpenAI(base_url=url, api_key=key, max_retries=2)

    def say_hi(self) -> str | None:
        with self.client() as client:
            answer = client.chat.completions.create(model="scripted-model", messages=user("hi"))
        return answer.choices[0].message.content


@pytest.fixture
def service(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    running = Service(tmp_path, getattr(request, "param", CONFIG))
    yield running
    if running.process.poll() is None:
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(DEADLINE_S)


def _gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def test_one_command_serves_and_ctrl_c_ends_everything(service: Service) -> None:
    assert service.say_hi() == "hello"
    family = service.family()
    assert len(family) >= 3
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(DEADLINE_S) == 0
    assert _gone(family)


def test_the_gateway_is_back_after_a_kill(service: Service) -> None:
    killed = [p for p in service.family() if "gateway" in p.cmdline()]
    killed[0].kill()
    assert service.say_hi() == "hello"


def test_a_gateway_that_leaves_lets_streams_end_and_then_ends_them(service: Service) -> None:
    """Those that end within its grace are whole, the others end in an error record, and a request
    that comes meanwhile is answered by its successor."""
    gateway = next(p for p in service.family() if "gateway" in p.cmdline())
    with service.client() as client:
        streams = [
            client.chat.completions.create(model="scripted-model", messages=user(text), stream=True)
            for text in ("some time", "for ever")
        ]
        for stream in streams:
            next(stream)
        started = time.monotonic()
        gateway.terminate()
        with ThreadPoolExecutor() as threads:
            other = threads.submit(service.say_hi)
            endless = threads.submit(list, streams[1])
            ticks = [chunk.choices[0] for chunk in streams[0]]
            assert "".join(tick.delta.content or "" for tick in ticks).count("tick") == 50
            assert ticks[-1].finish_reason == "stop"
            with pytest.raises(openai.APIError, match="being stopped"):
                endless.result(DEADLINE_S)
            assert time.monotonic() - started > DRAIN_TIMEOUT_S - 1
            assert other.result(DEADLINE_S) == "hello"


def test_nothing_outlives_a_killed_root(service: Service) -> None:
    family = service.family()
    service.process.kill()
    service.process.wait(DEADLINE_S)
    wait_for(lambda: _gone(family))


@pytest.mark.parametrize("service", [WRONG_TEMPLATE], indirect=True)
def test_the_operator_is_told_that_a_template_is_not_the_model_s(service: Service) -> None:
    service.find(r"(Warning: scripted-model: The template 'qwen3' differs from the model's own in)")
    with service.client() as client:
        model = client.models.retrieve("scripted-model").model_dump()
    assert "conversation 'one turn' differs from token 0 on" in model["template_difference"]


@pytest.mark.parametrize(
    ("template", "folder", "message"),
    [
        ("qwen33", "", "There is no chat format named 'qwen33'."),
        ("qwen3", "mine: {like: chatml, sytem: x}", "mine.yaml:1"),
    ],
)
def test_a_template_that_cannot_be_used_is_said_before_anything_starts(
    tmp_path: Path, template: str, folder: str, message: str
) -> None:
    (tmp_path / "formats").mkdir()
    (tmp_path / "formats" / "mine.yaml").write_text(folder)
    config = CONFIG.replace("template: qwen3", f"template: {template}") + "templates: [formats]\n"
    (tmp_path / "tuneyard.yaml").write_text(config)
    command = [sys.executable, "-m", "server.cli", "serve", "-c", str(tmp_path / "tuneyard.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 1
    assert message in done.stdout.replace("\n", "")


def test_the_operator_is_told_why_an_engine_does_not_start(tmp_path: Path) -> None:
    """Callers are told that it does not, and nothing of the operator's. Once the weights are mended
    the next try serves them."""
    model = tmp_path / "model"
    shutil.copytree(BUNDLED, model)
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:1000])
    config = (
        "data: data\nport: 0\nmodels:\n"
        "  - {id: broken, path: model, engine: hf, device: cpu, replicas: 2}\n"
    )
    service = Service(tmp_path, config, until="after a change of the settings")
    try:
        for number in (1, 2):
            wait_for(lambda n=number: f"(replica {n})" in service.output.read_text())
        reason = service.find(r"The engine of broken \(replica 1\) does not start: (.+)")
        assert "SafetensorError" in reason or "header" in reason, reason
        assert Path(service.find(r"Its log: (\S+)")).is_file()
        url = service.find(r"URL +(\S+)/v1")
        ready = httpx.get(f"{url}/readyz")
        assert ready.status_code == 503
        assert ready.json()["not_starting"] == [
            {"model": "broken", "engine": f"replica {number}", "adapter": None} for number in (1, 2)
        ]
        with service.client() as client, pytest.raises(openai.InternalServerError) as refused:
            client.with_options(max_retries=0).chat.completions.create(
                model="broken", messages=user("hi")
            )
        assert refused.value.status_code == 503
        told = "No engine of the model 'broken' starts: replica 1, replica 2."
        assert told in refused.value.message
        assert str(tmp_path) not in ready.text + refused.value.response.text
        (model / "model.safetensors").write_bytes(weights)
        wait_for(lambda: "Ready: " in service.output.read_text())
        wait_for(lambda: not httpx.get(f"{url}/readyz").json()["not_starting"])
        assert service.output.read_text().count("does not start") == 2
    finally:
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(DEADLINE_S)
