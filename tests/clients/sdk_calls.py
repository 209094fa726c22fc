"""What the methods that work are called with: a table from their path to their arguments.

A method that comes to work is a line here. Everything that it needs of other objects it makes for
itself, as every call of it (sync, async, raw, streaming) needs its own.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from typing import Any, Literal

import openai
from pydantic import BaseModel

from tests.clients.conftest import MODEL
from tests.e2e.conftest import START_TIMEOUT_S
from tests.gateway.conftest import user

ENDED = ("succeeded", "failed", "cancelled")
ROWS = "".join(
    json.dumps({"messages": [*user(f"Say {n}."), {"role": "assistant", "content": str(n)}]}) + "\n"
    for n in range(10)
).encode()
GRADER = {
    "type": "string_check",
    "name": "same",
    "input": "{{sample.output_text}}",
    "operation": "eq",
    "reference": "yes",
}


class Place(BaseModel):
    city: Literal["Paris", "Rome"]


class World:
    """Makes what methods are called on."""

    def __init__(self, client: openai.OpenAI) -> None:
        self.client = client
        self.admin = client.admin.organization
        self._checkpoint: str | None = None

    def file(self, num_rows: int = 10) -> str:
        rows = ROWS * (num_rows // 10)
        return self.client.files.create(file=("rows.jsonl", rows), purpose="fine-tune").id

    def job(self, epochs: int = 50) -> str:
        """It goes on until it is cancelled, or waits behind one that does."""
        count = {"n_epochs": epochs, "batch_size": 1}
        job = self.client.fine_tuning.jobs.create(
            model=MODEL,
            training_file=self.file(10 if epochs == 1 else 400),
            seed=1,
            method={"type": "supervised", "supervised": {"hyperparameters": count}},
        )
        return job.id

    def paused(self) -> str:
        return self.client.fine_tuning.jobs.pause(self.running()).id

    def running(self) -> str:
        self.end()
        return self.wait(self.job(), (*ENDED, "running")).id

    def checkpoint(self) -> str:
        if self._checkpoint is None:
            ended = self.wait(self.job(epochs=1))
            assert ended.fine_tuned_model is not None, ended
            self._checkpoint = ended.fine_tuned_model
        return self._checkpoint

    def wait(self, job_id: str, states: tuple[str, ...] = ENDED) -> Any:
        deadline = time.monotonic() + START_TIMEOUT_S
        while (job := self.client.fine_tuning.jobs.retrieve(job_id)).status not in states:
            assert time.monotonic() < deadline, job
            time.sleep(0.2)
        return job

    def tuned(self) -> str:
        self.end()
        return str(self.wait(self.job(epochs=1)).fine_tuned_model)

    def permission(self) -> str:
        permissions = self.client.fine_tuning.checkpoints.permissions
        made = permissions.create(self.checkpoint(), project_ids=[self.project()])
        return made.data[0].id

    def completion(self) -> str:
        return self.client.chat.completions.create(**_CHAT, store=True).id

    def response(self) -> str:
        return self.client.responses.create(model=MODEL, input="Hello.", max_output_tokens=16).id

    def batched(self) -> dict[str, Any]:
        body = {"model": MODEL, "messages": user("Hello."), "max_tokens": 16}
        lines = [
            {"custom_id": f"{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            for n in range(40)
        ]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        file = self.client.files.create(file=("lines.jsonl", content), purpose="batch")
        return {
            "input_file_id": file.id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }

    def batch(self) -> str:
        return self.client.batches.create(**self.batched()).id

    def background_response(self) -> str:
        return self.client.responses.create(
            model=MODEL, input="Hello.", max_output_tokens=16, background=True
        ).id

    def upload(self) -> str:
        uploads = self.client.uploads
        return uploads.create(
            bytes=len(ROWS), filename="r.jsonl", mime_type="text/jsonl", purpose="fine-tune"
        ).id

    def part(self, upload: str) -> str:
        return self.client.uploads.parts.create(upload, data=ROWS).id

    def project(self) -> str:
        return self.admin.projects.create(name="one").id

    def account(self) -> tuple[str, str, str]:
        """A service account with its project and the key made with it."""
        project = self.project()
        made = self.admin.projects.service_accounts.create(project, name="one")
        assert made.api_key is not None
        return project, made.id, made.api_key.id

    def in_account(self) -> dict[str, Any]:
        project, account, _ = self.account()
        return {"project_id": project, "service_account_id": account}

    def with_key(self) -> dict[str, Any]:
        project, _, key = self.account()
        return {"project_id": project, "api_key_id": key}

    def admin_key(self) -> dict[str, Any]:
        return {"key_id": self.admin.admin_api_keys.create(name="one").id}

    def rate_limit(self) -> dict[str, Any]:
        project = self.project()
        (first, *_) = self.admin.projects.rate_limits.list_rate_limits(project).data
        return {"project_id": project, "rate_limit_id": first.id, "max_requests_per_1_minute": 9}

    def whole_upload(self) -> dict[str, Any]:
        upload = self.upload()
        return {"upload_id": upload, "part_ids": [self.part(upload)]}

    def end(self) -> None:
        """Leaves no job at work."""
        for job in self.client.fine_tuning.jobs.list(limit=100):
            if job.status not in ENDED:
                self.client.fine_tuning.jobs.cancel(job.id)


_CHAT: dict[str, Any] = {"model": MODEL, "messages": user("Hello."), "max_tokens": 4}
_RESPONSE: dict[str, Any] = {"model": MODEL, "input": "Hello.", "max_output_tokens": 16}
_ADMIN = "admin.organization."
_PROJECTS = f"{_ADMIN}projects."

STREAMED = frozenset({"chat.completions.create", "completions.create", "responses.create"})
"""Those that take `stream=True`."""
CALLS: dict[str, Callable[[World], dict[str, Any]]] = {
    "batches.cancel": lambda w: {"batch_id": w.batch()},
    "batches.create": lambda w: w.batched(),
    "batches.list": lambda _: {},
    "batches.retrieve": lambda w: {"batch_id": w.batch()},
    "chat.completions.create": lambda _: _CHAT,
    "chat.completions.delete": lambda w: {"completion_id": w.completion()},
    "chat.completions.list": lambda _: {},
    "chat.completions.messages.list": lambda w: {"completion_id": w.completion()},
    "chat.completions.parse": lambda _: _CHAT | {"max_tokens": 200, "response_format": Place},
    "chat.completions.retrieve": lambda w: {"completion_id": w.completion()},
    "chat.completions.stream": lambda _: _CHAT,
    "chat.completions.update": lambda w: {"completion_id": w.completion(), "metadata": {"a": "b"}},
    "completions.create": lambda _: {"model": MODEL, "prompt": "Hello", "max_tokens": 4},
    "embeddings.create": lambda _: {"model": MODEL, "input": ["one"], "encoding_format": "float"},
    "files.content": lambda w: {"file_id": w.file()},
    "files.create": lambda _: {"file": ("rows.jsonl", ROWS), "purpose": "fine-tune"},
    "files.delete": lambda w: {"file_id": w.file()},
    "files.list": lambda _: {},
    "files.retrieve": lambda w: {"file_id": w.file()},
    "files.retrieve_content": lambda w: {"file_id": w.file()},
    "files.wait_for_processing": lambda w: {"id": w.file()},
    "fine_tuning.alpha.graders.run": lambda _: {"grader": GRADER, "model_sample": "yes"},
    "fine_tuning.alpha.graders.validate": lambda _: {"grader": GRADER},
    "fine_tuning.checkpoints.permissions.create": lambda w: {
        "fine_tuned_model_checkpoint": w.checkpoint(),
        "project_ids": [w.project()],
    },
    "fine_tuning.checkpoints.permissions.delete": lambda w: {
        "permission_id": w.permission(),
        "fine_tuned_model_checkpoint": w.checkpoint(),
    },
    "fine_tuning.checkpoints.permissions.list": lambda w: {
        "fine_tuned_model_checkpoint": w.checkpoint()
    },
    "fine_tuning.checkpoints.permissions.retrieve": lambda w: {
        "fine_tuned_model_checkpoint": w.checkpoint()
    },
    "fine_tuning.jobs.cancel": lambda w: {"fine_tuning_job_id": w.job()},
    "fine_tuning.jobs.checkpoints.list": lambda w: {"fine_tuning_job_id": w.job()},
    "fine_tuning.jobs.create": lambda w: {"model": MODEL, "training_file": w.file(), "seed": 1},
    "fine_tuning.jobs.list": lambda _: {},
    "fine_tuning.jobs.list_events": lambda w: {"fine_tuning_job_id": w.job()},
    "fine_tuning.jobs.pause": lambda w: {"fine_tuning_job_id": w.running()},
    "fine_tuning.jobs.resume": lambda w: {"fine_tuning_job_id": w.paused()},
    "fine_tuning.jobs.retrieve": lambda w: {"fine_tuning_job_id": w.job()},
    "models.delete": lambda w: {"model": w.tuned()},
    "models.list": lambda _: {},
    "models.retrieve": lambda _: {"model": MODEL},
    "responses.cancel": lambda w: {"response_id": w.background_response()},
    "responses.create": lambda _: _RESPONSE,
    "responses.delete": lambda w: {"response_id": w.response()},
    "responses.input_items.list": lambda w: {"response_id": w.response()},
    "responses.input_tokens.count": lambda _: {"model": MODEL, "input": "Hello."},
    "responses.parse": lambda _: _RESPONSE | {"max_output_tokens": 200, "text_format": Place},
    "responses.retrieve": lambda w: {"response_id": w.response()},
    "responses.stream": lambda _: _RESPONSE,
    "uploads.cancel": lambda w: {"upload_id": w.upload()},
    "uploads.complete": lambda w: w.whole_upload(),
    "uploads.create": lambda _: {
        "bytes": len(ROWS),
        "filename": "r.jsonl",
        "mime_type": "text/jsonl",
        "purpose": "fine-tune",
    },
    "uploads.parts.create": lambda w: {"upload_id": w.upload(), "data": io.BytesIO(ROWS)},
    "uploads.upload_file_chunked": lambda _: {
        "file": ROWS,
        "filename": "r.jsonl",
        "bytes": len(ROWS),
        "mime_type": "text/jsonl",
        "purpose": "fine-tune",
    },
    f"{_ADMIN}admin_api_keys.create": lambda _: {"name": "one"},
    f"{_ADMIN}admin_api_keys.delete": lambda w: w.admin_key(),
    f"{_ADMIN}admin_api_keys.list": lambda _: {},
    f"{_ADMIN}admin_api_keys.retrieve": lambda w: w.admin_key(),
    f"{_ADMIN}audit_logs.list": lambda _: {},
    f"{_ADMIN}usage.completions": lambda _: {"start_time": 0},
    f"{_ADMIN}usage.costs": lambda _: {"start_time": 0},
    f"{_ADMIN}usage.embeddings": lambda _: {"start_time": 0},
    f"{_PROJECTS}api_keys.delete": lambda w: w.with_key(),
    f"{_PROJECTS}api_keys.list": lambda w: {"project_id": w.project()},
    f"{_PROJECTS}api_keys.retrieve": lambda w: w.with_key(),
    f"{_PROJECTS}archive": lambda w: {"project_id": w.project()},
    f"{_PROJECTS}create": lambda _: {"name": "one"},
    f"{_PROJECTS}list": lambda _: {},
    f"{_PROJECTS}rate_limits.list_rate_limits": lambda w: {"project_id": w.project()},
    f"{_PROJECTS}rate_limits.update_rate_limit": lambda w: w.rate_limit(),
    f"{_PROJECTS}retrieve": lambda w: {"project_id": w.project()},
    f"{_PROJECTS}service_accounts.create": lambda w: {"project_id": w.project(), "name": "one"},
    f"{_PROJECTS}service_accounts.delete": lambda w: w.in_account(),
    f"{_PROJECTS}service_accounts.list": lambda w: {"project_id": w.project()},
    f"{_PROJECTS}service_accounts.retrieve": lambda w: w.in_account(),
    f"{_PROJECTS}update": lambda w: {"project_id": w.project(), "name": "two"},
}
CALLS |= {f"beta.{path}": call for path, call in CALLS.items() if path.startswith("chat.")}
NOT_OURS = {
    "beta.responses.": "a beta of OpenAI's; use `client.responses`",
    **dict.fromkeys(
        (
            "beta.agents.environments.files.",
            "videos.edit",
            "videos.extend",
            "beta.agents.sessions.artifacts.for_result",
            "beta.agents.sessions.stream",
            "beta.realtime.connect",
            "beta.threads.create_and_run_stream",
            "beta.threads.runs.create_and_stream",
            "beta.threads.runs.stream",
            "beta.threads.runs.submit_tool_outputs_stream",
            "vector_stores.file_batches.upload_and_poll",
        ),
        "made of methods that are refused",
    ),
    **dict.fromkeys(
        (
            "live.connect",
            "live.forks.connect",
            "live.sideband.connect",
            "realtime.connect",
            "realtime.translations.connect",
            "responses.connect",
        ),
        "a WebSocket; there are none here",
    ),
}
"""Beginnings of methods that are not asked for: a request does not come of each of them."""
OF_CLIENT = {
    "webhooks.unwrap": "checks what this service sends, see webhooks.md",
    "webhooks.verify_signature": "checks what this service sends, see webhooks.md",
}
"""Methods that ask no server."""
