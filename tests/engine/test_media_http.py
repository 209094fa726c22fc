"""A sound in a chat over HTTP: heard, counted, and refused by its place."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from server.config import Config, EngineKind, ModelEntry
from tests.gateway.conftest import MODEL, Worker, start_gateway

from . import media_models as makes
from .conftest import WorkerProcess
from .media_models import Asked


async def started(worker: WorkerProcess) -> None:
    await (await worker.client()).close()


def test_a_chat_over_http_answers_about_a_sound(tmp_path: Path) -> None:
    kind = makes.KINDS["qwen2_audio"]
    folder = makes.make_model(tmp_path / "model", "qwen2_audio")
    tone = makes.tone(7, 12_000)
    heard = [(tone / 32768).astype(np.float32)]
    written = "<|im_start|>user\n<audio>What is it?<|im_end|>\n<|im_start|>assistant\n"
    config = Config(
        data=tmp_path, models=(ModelEntry(id=MODEL, path="/nowhere", engine=EngineKind.HF),)
    )
    inputs = kind.inputs(kind, kind.tokenizer(), Asked(written, sounds=heard))
    worker = WorkerProcess(
        tmp_path / "worker", backend="hf", model_path=str(folder), dtype="float32", device="cpu"
    )
    gateway = None
    try:
        asyncio.run(started(worker))
        gateway = start_gateway(config, [Worker(worker.address, worker.process)], [MODEL])  # type: ignore[arg-type]
        with gateway.client() as client:

            def ask(data: bytes) -> Any:
                sound = {"data": base64.b64encode(data).decode(), "format": "wav"}
                content: list[Any] = [
                    {"type": "input_audio", "input_audio": sound},
                    {"type": "text", "text": "What is it?"},
                ]
                return client.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": content}],
                    temperature=0,
                    max_completion_tokens=8,
                    extra_body={"ignore_eos": True, "skip_special_tokens": False},
                )

            answer = ask(makes.sound(tone))
            ids = makes.greedy(makes.load(folder), inputs, 8)
            assert answer.choices[0].message.content == kind.tokenizer().decode(ids)
            word = kind.tokenizer().convert_tokens_to_ids("<|AUDIO|>")
            num_audio = int((inputs["input_ids"] == word).sum())
            assert answer.usage.prompt_tokens == inputs["input_ids"].shape[1]
            assert answer.usage.prompt_tokens_details.audio_tokens == num_audio > 10
            with pytest.raises(openai.BadRequestError) as caught:
                ask(makes.sound(tone)[:40])
            assert caught.value.code == "audio_parse_error"
            assert caught.value.param == "messages[0].content[0]"
    finally:
        if gateway is not None:
            gateway.stop()
        worker.end()
