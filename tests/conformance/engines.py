"""Starts a real engine worker of each kind, in its own environment and process group."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conformance.model_files import MODEL_PATH
from tests.engine.conftest import GUARD_S, WorkerClient
from tests.gateway.conftest import MODEL

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 240.0
MAX_MODEL_LEN = 2048
MAX_LORAS = 2
MAX_LORA_RANK = 16
_SCRIPT: dict[str, Any] = {
    # What it says does not depend on how it is sampled, so that is not declared.
    "capabilities": [
        "lora",
        "logprobs",
        "prompt_logprobs",
        "min_tokens",
        "json_schema",
        "regex",
        "choice",
        "ebnf",
        "structural_tag",
    ],
    "replies": [
        {"grammar": "json_object", "text": "{}"},
        {"grammar": "json_schema", "text": '{"ok": true, "kind": "a"}'},
        {"grammar": "regex", "text": "abbc"},
        {"grammar": "choice", "text": "yes"},
        {"grammar": "ebnf", "text": "xz"},
        {"grammar": "structural_tag", "text": "hi"},
        {"text": "word ", "repeat": 2000, "delay_ms": 1},
    ],
}


@dataclass(frozen=True, slots=True)
class EngineKind:
    name: str
    label: str
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    environment: dict[str, str] = field(default_factory=dict[str, str])
    has_model: bool = True

    @property
    def python(self) -> Path | None:
        """The interpreter of the engine's environment, if it is there."""
        if self.name in ("hf", "scripted"):
            return Path(sys.executable)
        told = os.environ.get(f"TUNEYARD_{self.name.upper()}_PYTHON")
        path = Path(told) if told else ROOT / ".envs" / self.name / "bin" / "python"
        return path if path.is_file() else None


KINDS = {
    kind.name: kind
    for kind in (
        EngineKind("scripted", "Scripted", settings=_SCRIPT, has_model=False),
        EngineKind("hf", "HF"),
        EngineKind("vllm", "vLLM (CPU)", settings={"block_size": 32}),
        EngineKind(
            "sglang",
            "SGLang, kernels stubbed (CPU)",
            environment={"PYTHONPATH": str(ROOT / "tests" / "sgl_kernel_stub")},
        ),
    )
}


class EngineProcess:
    def __init__(self, kind: EngineKind, folder: Path, **overrides: Any) -> None:
        python = kind.python
        assert python is not None, "asked for only where its environment is there"
        self.kind = kind
        folder.mkdir(parents=True, exist_ok=True)
        self.address = f"unix:{folder}/engine.sock"
        self.log = folder / "engine.log"
        # The worker leaves when this process is gone, however that came about.
        parent_fd, parent_end = os.pipe()
        self._parent_end: int | None = parent_end
        spec = {
            "model_id": MODEL,
            "model_path": str(MODEL_PATH),
            "backend": kind.name,
            "listen": self.address,
            "dtype": "float32",
            "device": "cpu",
            "max_model_len": MAX_MODEL_LEN,
            "max_num_seqs": 8,
            "max_loras": MAX_LORAS,
            "max_lora_rank": MAX_LORA_RANK,
            "settings": kind.settings,
            "parent_fd": parent_fd,
        }
        (folder / "spec.json").write_text(json.dumps(spec | overrides))
        paths = [str(ROOT), *filter(None, [kind.environment.get("PYTHONPATH")])]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(python), "-m", "workers.engine", "--spec", str(folder / "spec.json")],
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    "HF_HUB_OFFLINE": "1",
                    "PYTHONPATH": os.pathsep.join(paths),
                },
                start_new_session=True,
                pass_fds=[parent_fd],
            )
        os.close(parent_fd)

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        socket = Path(self.address.removeprefix("unix:"))
        while not socket.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.kind.label} did not start:\n{self.tail()}")
            time.sleep(0.1)

    async def connect(self) -> WorkerClient:
        return await WorkerClient.connect(self.address)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-6000:]

    def children(self) -> list[int]:
        """Ids of all living processes of the engine's session but the worker itself."""
        listed = subprocess.run(
            ["ps", "-o", "pid=,stat=", "--sid", str(self.process.pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        rows = [line.split() for line in listed.stdout.splitlines()]
        pids = [int(pid) for pid, state in rows if not state.startswith("Z")]
        return [pid for pid in pids if pid != self.process.pid]

    async def exit_status(self, timeout_s: float) -> int:
        return await asyncio.to_thread(self.process.wait, timeout_s)

    def leave(self) -> None:
        """TERM must end every process, in good order."""
        self.process.terminate()
        try:
            status = self.process.wait(GUARD_S)
            assert status == 0, f"status {status}:\n{self.tail()}"
            deadline = time.monotonic() + 60
            while self.children() and time.monotonic() < deadline:
                time.sleep(0.1)
            assert self.children() == [], "a process was left behind"
        finally:
            self.end()

    def end(self) -> None:
        """As the supervisor does it: TERM, a grace, then KILL for the whole group. Once only: the
        group's number may be somebody else's later."""
        if self._parent_end is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._parent_end)
        self._parent_end = None
