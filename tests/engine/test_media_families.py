"""Every family that takes media gives what transformers' own `generate()` gives, greedily, token by
token: alone, among others in one batch, with its tokens spread over many steps, and out of the
prefix cache."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workers.contract.parts import Media, MediaKind, PromptPart, Text

from . import media_models as makes
from .media_engine import MediaEngine
from .media_models import Asked

NUM_TOKENS = 12
BEFORE = "<|im_start|>user\nThe quick brown fox jumps over "
AFTER = " the lazy dog?<|im_end|>\n<|im_start|>assistant\n"


def those_that_take(mark: str) -> Any:
    names = [name for name, kind in makes.KINDS.items() if mark in kind.marks]
    return pytest.mark.parametrize("name", names, indirect=True)


@pytest.fixture(scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return makes.make_model(tmp_path_factory.mktemp("models") / name, name)


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[MediaEngine]:
    engine = MediaEngine(folder)
    await engine.start()
    yield engine
    await engine.close()


def prompt(kind: makes.Kind, text: str, data: list[bytes]) -> list[PromptPart | Media]:
    """The text's marks replaced by media, in order."""
    parts: list[PromptPart | Media] = []
    left = iter(data)
    for piece in re.split("(<image>|<video>|<audio>)", text):
        if piece in kind.marks:
            medium = MediaKind(piece.strip("<>"))
            parts.append(Media(medium, kind.marks[piece], next(left), "messages[0].content[0]"))
        elif piece:
            parts.append(Text(piece, control=True))
    return parts


def expected(folder: Path, kind: makes.Kind, model: Any, asked: Asked) -> list[int]:
    return makes.greedy(model, kind.inputs(kind, kind.tokenizer(), asked), NUM_TOKENS)


@those_that_take("<image>")
async def test_pictures_are_seen_as_generate_sees_them(
    engine: MediaEngine, folder: Path, name: str
) -> None:
    kind, model = makes.KINDS[name], makes.load(folder)
    pictures = [makes.picture(1), makes.picture(2, 140, 56), makes.picture(3, 90, 200)]
    rows = [pictures[:1], [], pictures[1:2], pictures]
    asked = [Asked(f"{BEFORE}{'<image> and ' * len(row)}{AFTER}", row) for row in rows]
    wanted = [expected(folder, kind, model, one) for one in asked]
    assert len({tuple(ids) for ids in wanted}) == len(rows)
    prompts = [prompt(kind, one.text, list(map(makes.png, one.pictures))) for one in asked]
    for one, ids in zip(prompts, wanted, strict=True):
        assert await engine.answer(one, NUM_TOKENS) == ids
    together = await asyncio.gather(*(engine.answer(one, NUM_TOKENS) for one in prompts))
    assert together == wanted
    cached = engine.num_cached
    assert [await engine.answer(prompts[3], NUM_TOKENS) for _ in range(2)] == [wanted[3]] * 2
    assert engine.num_cached - cached > 40


@those_that_take("<video>")
async def test_clips_are_seen_as_generate_sees_them(
    engine: MediaEngine, folder: Path, name: str
) -> None:
    kind, model = makes.KINDS[name], makes.load(folder)
    data = [makes.clip(1, 12), makes.clip(2, 6, size=(56, 56)), makes.clip(3, 7, size=(84, 56))]
    # Two frames a second, from the first to the last, and an odd one shown twice.
    places = [[0, 2, 4, 6, 8, 11], [0, 2, 5], [0, 3, 6]]
    read = [makes.frames(one) for one in data]
    clips = [
        ([shown[place] for place in chosen], len(chosen) / (len(shown) / 4))
        for shown, chosen in zip(read, places, strict=True)
    ]
    pictures = [makes.picture(4)]
    asked = [
        (Asked(f"{BEFORE}<video>{AFTER}", clips=clips[:1]), data[:1]),
        (Asked(f"{BEFORE}<video>{AFTER}", clips=clips[1:2]), data[1:2]),
        (Asked(f"{BEFORE}{AFTER}"), []),
        (
            Asked(f"{BEFORE}<video> <image> <video>{AFTER}", pictures, clips[1:]),
            [data[1], makes.png(pictures[0]), data[2]],
        ),
    ]
    wanted = [expected(folder, kind, model, one) for one, _ in asked]
    assert len({tuple(ids) for ids in wanted}) == len(asked)
    prompts = [prompt(kind, one.text, files) for one, files in asked]
    for one, ids in zip(prompts, wanted, strict=True):
        assert await engine.answer(one, NUM_TOKENS) == ids
    together = await asyncio.gather(*(engine.answer(one, NUM_TOKENS) for one in prompts))
    assert together == wanted


@those_that_take("<audio>")
async def test_sounds_are_heard_as_generate_hears_them(
    engine: MediaEngine, folder: Path, name: str
) -> None:
    kind, model = makes.KINDS[name], makes.load(folder)
    tones = [makes.tone(1, 9_000), makes.tone(2, 20_000)]
    heard = [(tone / 32768).astype(np.float32) for tone in tones]
    files = [makes.sound(tone) for tone in tones]
    asked = [
        Asked(f"{BEFORE}<audio>{AFTER}", sounds=heard[:1]),
        Asked(f"{BEFORE}{AFTER}"),
        Asked(f"{BEFORE}<audio> and <audio>{AFTER}", sounds=heard),
    ]
    wanted = [expected(folder, kind, model, one) for one in asked]
    assert len({tuple(ids) for ids in wanted}) == len(asked)
    prompts = [prompt(kind, one.text, files[: len(one.sounds)]) for one in asked]
    for one, ids in zip(prompts, wanted, strict=True):
        assert await engine.answer(one, NUM_TOKENS) == ids
    together = await asyncio.gather(*(engine.answer(one, NUM_TOKENS) for one in prompts))
    assert together == wanted
