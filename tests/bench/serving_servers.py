"""The servers of the serving benchmark, each as its own documentation says to start it on CPU.

All serve the same directory in bfloat16 with the threads they choose themselves. While one is
measured the others are suspended, so that none takes time from it by polling.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from tests.bench.environments import LLAMAFACTORY, ROOT, TRANSFORMERS
from tests.bench.serving_load import Target
from tests.conformance.engines import KINDS
from tests.jobs.live import KEY, free_port

START_LIMIT_S = 200
MAX_CONCURRENCY = 32
MAX_MODEL_LEN = 1024
VLLM_VERSION = "vLLM 0.32.0 (CPU)"
_OFFLINE = {"HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True, slots=True)
class Launch:
    command: Sequence[str]
    environment: Mapping[str, str]
    target: Target


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    version: str
    launch: Callable[[Path, Path], Launch]
    """Of a model's directory and a folder of its own."""


class Server:
    """A running contender."""

    def __init__(self, contender: Contender, model: Path, folder: Path) -> None:
        folder.mkdir()
        launch = contender.launch(model, folder)
        self.contender = contender
        self.target = launch.target
        self._log = folder / "server.log"
        with self._log.open("wb") as log:
            self._process = psutil.Popen(
                [*launch.command],
                env={**os.environ, **_OFFLINE, **launch.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
            )

    def wait_until_ready(self) -> None:
        """Until a first answer has come."""
        deadline = time.monotonic() + START_LIMIT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = self._log.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"{self.contender.name} did not start:\n{tail}")
            time.sleep(0.5)

    def _answers(self) -> bool:
        target = self.target
        request = {
            "model": target.model,
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 4,
            **target.extras,
            "stream": False,
        }
        request.pop("stream_options", None)
        with suppress(httpx.TransportError):
            answer = httpx.post(
                f"http://127.0.0.1:{target.port}/v1/chat/completions",
                json=request,
                headers={"Authorization": f"Bearer {target.key}"},
                timeout=60,
            )
            return answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 4
        return False

    def suspend(self) -> None:
        for process in self._tree():
            process.suspend()

    def resume(self) -> None:
        for process in reversed(self._tree()):
            process.resume()
        self.wait_until_ready()

    def end(self) -> None:
        tree = self._tree()
        for process in tree:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(tree, timeout=10)

    def _tree(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return [self._process, *self._process.children(recursive=True)]
        return []


def _tuneyard(model: Path, folder: Path) -> Launch:
    port = free_port()
    entry: dict[str, Any] = {
        "id": model.name,
        "path": str(model),
        "engine": "hf",
        "dtype": "bfloat16",
        "max_num_seqs": MAX_CONCURRENCY,
        "max_model_len": MAX_MODEL_LEN,
    }
    config = {
        "port": port,
        "data": str(folder / "data"),
        "api_key": KEY,
        "models": [entry],
        "training": {"warm_trainers": 0},
    }
    path = folder / "tuneyard.yaml"
    path.write_text(yaml.safe_dump(config))
    return Launch(
        [sys.executable, "-m", "server.cli", "serve", "--config", str(path)],
        {"PYTHONPATH": str(ROOT)},
        Target(port, model.name, {"ignore_eos": True, **_USAGE}, KEY),
    )


def _transformers(model: Path, folder: Path) -> Launch:
    port = free_port()
    program = TRANSFORMERS.program("transformers")
    flags = ["--continuous-batching", "--dtype", "bfloat16", "--device", "cpu"]
    return Launch(
        [program, "serve", str(model), *flags, "--port", str(port), "--host", "127.0.0.1"],
        {},
        Target(port, str(model), {}),
    )


def _llamafactory(model: Path, folder: Path) -> Launch:
    port = free_port()
    flags = {
        "--model_name_or_path": str(model),
        "--template": "qwen3_nothink",
        "--infer_backend": "huggingface",
        "--infer_dtype": "bfloat16",
    }
    return Launch(
        [LLAMAFACTORY.program("llamafactory-cli"), "api", *sum(flags.items(), ())],
        {"API_PORT": str(port), "API_HOST": "127.0.0.1", **LLAMAFACTORY.variables},
        Target(port, model.name, {}),
    )


def _vllm(model: Path, folder: Path) -> Launch:
    python = KINDS["vllm"].python
    if python is None or not python.is_file():
        raise RuntimeError("vLLM's environment is missing: make envs ENGINES=vllm")
    port = free_port()
    flags = {
        "--model": str(model),
        "--served-model-name": model.name,
        "--dtype": "bfloat16",
        "--max-model-len": str(MAX_MODEL_LEN),
        "--max-num-seqs": str(MAX_CONCURRENCY),
        "--port": str(port),
        "--host": "127.0.0.1",
    }
    return Launch(
        [
            str(python),
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--enforce-eager",
            *sum(flags.items(), ()),
        ],
        {
            "TORCHDYNAMO_DISABLE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
        },
        Target(port, model.name, {"ignore_eos": True, **_USAGE}),
    )


_USAGE = {"stream_options": {"include_usage": True}}
OURS = Contender("Tuneyard, HF engine", "", _tuneyard)
PEERS = {
    "transformers": Contender(
        "transformers serve --continuous-batching", TRANSFORMERS.version, _transformers
    ),
    "llamafactory": Contender("llamafactory-cli api", LLAMAFACTORY.version, _llamafactory),
    "vllm": Contender("vLLM's OpenAI server", VLLM_VERSION, _vllm),
}
