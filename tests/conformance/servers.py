"""Real vLLM and SGLang servers as an operator starts them: over HTTP, with a key."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.conformance.engines import KINDS

KEY = "sekret"
START_TIMEOUT_S = 240.0
_MODULES = {"vllm": "vllm.entrypoints.openai.api_server", "sglang": "sglang.launch_server"}
_ARGUMENTS = {
    "vllm": (
        "--model {model} --served-model-name remote --max-model-len 512 --block-size 32"
        " --enable-lora --max-loras 2 --max-lora-rank 16 --max-num-seqs 8"
        " --enable-prompt-tokens-details"
    ),
    "sglang": (
        "--model-path {model} --served-model-name remote --context-length 512 --device cpu"
        " --attention-backend torch_native --lora-backend torch_native --disable-overlap-schedule"
        " --max-total-tokens 8192 --max-running-requests 8 --mem-fraction-static 0.2 --enable-lora"
        " --max-lora-rank 16 --lora-target-modules all --max-loras-per-batch 3 --enable-metrics"
        " --skip-server-warmup --sleep-on-idle --grammar-backend xgrammar --log-level warning"
    ),
}
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "SGLANG_USE_CPU_ENGINE": "1",
}


@dataclass(frozen=True, slots=True)
class Server:
    flavour: str
    url: str

    def num_running(self) -> float:
        """Requests the server is working on, as its metrics tell."""
        text = httpx.get(
            f"{self.url}/metrics", headers={"authorization": f"Bearer {KEY}"}, timeout=60
        ).text
        lines = [
            line
            for line in text.splitlines()
            if line.startswith((f"{self.flavour}:num_requests_running", "sglang:num_running_reqs{"))
        ]
        assert lines, "the server tells no number of running requests"
        return sum(float(line.rpartition(" ")[2]) for line in lines)


class ServerProcess:
    """Being started when it is made."""

    def __init__(self, flavour: str, python: Path, model: Path, folder: Path) -> None:
        self._flavour = flavour
        self._has_ended = False
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        arguments = _ARGUMENTS[flavour].format(model=model)
        command = f"-m {_MODULES[flavour]} {arguments} --dtype float32 --api-key {KEY}"
        command += f" --host 127.0.0.1 --port {port}"
        self._log = folder / "server.log"
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(
                [str(python), *command.split()],
                cwd=folder,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_ENVIRONMENT, **KINDS[flavour].environment},
                start_new_session=True,
            )
        self._url = f"http://127.0.0.1:{port}"

    def wait_ready(self) -> Server:
        deadline = time.monotonic() + START_TIMEOUT_S
        headers = {"authorization": f"Bearer {KEY}"}
        while True:
            with contextlib.suppress(httpx.HTTPError):
                answer = httpx.get(f"{self._url}/v1/models", headers=headers)
                if answer.status_code == httpx.codes.OK:
                    return Server(self._flavour, self._url)
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self._log.read_text(errors="replace")[-4000:])
            time.sleep(0.3)

    def end(self) -> None:
        """Once only: the group's number may be somebody else's later."""
        if self._has_ended:
            return
        self._has_ended = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
