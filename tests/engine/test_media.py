"""Pictures through a real HF worker: what transformers' own `generate()` gives, alone and among
others, whatever the prefix cache holds."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from server.config import Config, EngineKind, ModelEntry
from tests.gateway.conftest import MODEL, Worker, start_gateway
from workers.contract.messages import FailureKind
from workers.contract.parts import Media, MediaKind, PromptPart, Text
from workers.engine.backend import RefusedError
from workers.engine.hf.media.pictures import PixelBounds, read_picture

from . import media_models as seeing
from .conftest import WorkerClient, WorkerProcess
from .media_models import Asked

NUM_TOKENS = 16
PLACEHOLDERS = {"llava": "<image>", "qwen2_5_vl": "<|image_pad|>"}
BEFORE = "<|im_start|>user\nThe quick brown fox jumps over "
AFTER = " the lazy dog?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeing.make_model(tmp_path_factory.mktemp("models") / kind, kind)


@pytest.fixture(scope="module")
def worker(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    process = WorkerProcess(
        tmp_path_factory.mktemp("media"),
        backend="hf",
        model_path=str(folder),
        dtype="float32",
        device="cpu",
        max_num_seqs=4,
        max_loras=1,
        max_lora_rank=8,
        settings={"prefill_tokens_per_step": 24, "image_max_pixels": 40_000},
    )
    yield process
    process.end()


def media(kind: str, data: bytes, detail: str | None = None) -> Media:
    return Media(
        MediaKind.IMAGE,
        seeing.KINDS[kind].marks["<image>"],
        data,
        "messages[0].content[0]",
        detail=detail,
    )


def prompt(kind: str, *pictures: Image.Image) -> list[Any]:
    parts: list[PromptPart | Media] = [Text(BEFORE, control=True)]
    for picture in pictures:
        parts += [media(kind, seeing.png(picture)), Text(" and ", control=False)]
    return [*parts, Text(AFTER, control=True)]


def processed(kind: str, text: str, *pictures: Image.Image) -> dict[str, Any]:
    """What transformers makes of it."""
    made = seeing.KINDS[kind]
    return made.inputs(made, made.tokenizer(), Asked(text, pictures))


def asked(*pictures: Image.Image) -> str:
    return BEFORE + "<image> and " * len(pictures) + AFTER


OPTIONS = {"temperature": 0.0, "max_tokens": NUM_TOKENS, "ignore_eos": True}


async def test_answers_are_those_of_generate_alone_and_in_a_mixed_batch(
    client: WorkerClient, folder: Path, kind: str
) -> None:
    model = seeing.load(folder)
    pictures = [seeing.picture(1), seeing.picture(2, 140, 56), seeing.picture(3, 90, 200)]
    rows = [pictures[:1], [], pictures[1:2], pictures, [], pictures[:1]]
    expected: list[list[int]] = []
    for row in rows:
        inputs = processed(kind, asked(*row), *row)
        expected.append(seeing.greedy(model, inputs, NUM_TOKENS))
    assert len({tuple(ids) for ids in expected}) == 4
    for row, ids in zip(rows, expected, strict=True):
        answer = await client.finish(client.start(prompt(kind, *row), **OPTIONS))
        assert answer.ids == ids
    started = [client.start(prompt(kind, *row), **OPTIONS) for row in rows]
    for request, ids in zip(started, expected, strict=True):
        assert (await client.finish(request)).ids == ids


async def test_prefixes_are_shared_only_with_the_same_picture(
    client: WorkerClient, kind: str
) -> None:
    one, other = seeing.picture(21), seeing.picture(22)
    cold = await client.finish(client.start(prompt(kind, one), **OPTIONS))
    again = await client.finish(client.start(prompt(kind, one), **OPTIONS))
    different = await client.finish(client.start(prompt(kind, other), **OPTIONS))
    num_prompt = cold.end.prompt_tokens
    assert again.end.cached_tokens == num_prompt
    assert different.end.cached_tokens < 40 < num_prompt
    assert again.ids == cold.ids != different.ids


async def test_a_large_picture_is_made_smaller_as_the_setting_says(
    client: WorkerClient, folder: Path, kind: str
) -> None:
    large = seeing.picture(5, 500, 320)
    answer = await client.finish(client.start(prompt(kind, large), **OPTIONS))
    smaller = large.resize((250, 160))
    inputs = processed(kind, asked(smaller), smaller)
    assert answer.end.prompt_tokens == inputs["input_ids"].shape[1]
    assert answer.ids == seeing.greedy(seeing.load(folder), inputs, NUM_TOKENS)


async def test_what_cannot_be_read_is_refused_by_its_place(client: WorkerClient, kind: str) -> None:
    good = seeing.png(seeing.picture(1))
    for data in (good[: len(good) // 2], b"\x89PNG\r\n\x1a\n", bytes(100)):
        answer = await client.finish(client.start([media(kind, data)], **OPTIONS))
        assert (answer.end.kind, answer.end.param) == (
            FailureKind.INVALID_MEDIA,
            "messages[0].content[0]",
        )
    sound = Media(MediaKind.AUDIO, "<|AUDIO|>", good, "messages[0].content[0]")
    answer = await client.finish(client.start([sound], **OPTIONS))
    assert answer.end.kind == FailureKind.UNSUPPORTED
    odd = Media(MediaKind.IMAGE, "<picture>", good, "messages[0].content[0]")
    answer = await client.finish(client.start([odd], **OPTIONS))
    assert answer.end.kind == FailureKind.UNSUPPORTED


async def test_the_worker_says_what_it_takes(client: WorkerClient, kind: str) -> None:
    assert client.hello.media[MediaKind.IMAGE] == PLACEHOLDERS[kind]
    assert client.hello.media.get(MediaKind.VIDEO) == (
        "<|video_pad|>" if kind == "qwen2_5_vl" else None
    )


def test_a_chat_over_http_answers_about_its_picture(
    worker: WorkerProcess, folder: Path, kind: str, tmp_path: Path
) -> None:
    picture = seeing.picture(9)
    forged = f"{PLACEHOLDERS[kind]} what is it?"
    written = "<|im_start|>user\n<image>what is it?<|im_end|>\n<|im_start|>assistant\n"
    expected = processed(kind, written, picture)
    entry = ModelEntry(id=MODEL, path="/nowhere", engine=EngineKind.HF)
    config = Config(data=tmp_path, models=(entry,))
    gateway = start_gateway(config, [Worker(worker.address, worker.process)], [MODEL])  # type: ignore[arg-type]
    try:
        with gateway.client() as client:

            def ask(data: bytes, question: str) -> Any:
                url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
                content: list[Any] = [
                    {"type": "image_url", "image_url": {"url": url, "detail": "high"}},
                    {"type": "text", "text": question},
                ]
                return client.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": content}],
                    temperature=0,
                    max_completion_tokens=8,
                    extra_body={"ignore_eos": True, "skip_special_tokens": False},
                )

            answer = ask(seeing.png(picture), "what is it?")
            assert answer.usage.prompt_tokens == expected["input_ids"].shape[1]
            ids = seeing.greedy(seeing.load(folder), expected, 8)
            assert answer.choices[0].message.content == seeing.KINDS[kind].tokenizer().decode(ids)
            assert ask(seeing.png(picture), forged).usage.completion_tokens == 8
            with pytest.raises(openai.BadRequestError) as caught:
                ask(seeing.png(picture)[:60], "what is it?")
            assert caught.value.code == "image_parse_error"
            assert caught.value.param == "messages[0].content[0]"
    finally:
        gateway.stop()


def test_bounds_are_llama_factorys() -> None:
    def size(picture: Image.Image, least: int, most: int, detail: str | None = None) -> Any:
        bounds = PixelBounds(least, most).with_detail(detail)
        return read_picture(seeing.png(picture), bounds, "p").size

    assert size(Image.new("RGB", (1000, 500)), 1, 768 * 768) == (1000, 500)
    assert size(Image.new("RGB", (2000, 500)), 1, 250_000) == (1000, 250)
    assert size(Image.new("RGBA", (8, 4)), 32 * 32, 10_000) == (45, 22)
    assert size(Image.new("L", (1024, 1024)), 1, 10_000_000, "low") == (512, 512)


def test_a_decompression_bomb_is_not_decoded() -> None:
    file = io.BytesIO()
    Image.new("1", (9000, 9000)).save(file, "PNG")
    assert len(file.getvalue()) < 20_000
    with pytest.raises(RefusedError, match="pixels"):
        read_picture(file.getvalue(), PixelBounds(1, 100), "p")
