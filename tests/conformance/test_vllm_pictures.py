"""Pictures through real vLLM workers: what transformers' own `generate()` gives, as on the HF
engine (`tests/engine/test_media.py`).

vLLM loads models that see only where torchvision is, and that has no build for CPU from the package
index: its Python part, out of SGLang's environment, stands in, with the operators declared that it
misses (they are never run).
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.conformance.engines import KINDS, ROOT, EngineProcess
from tests.engine import media_models as seeing
from tests.engine.conftest import WorkerClient
from tests.engine.test_media import OPTIONS, PLACEHOLDERS, asked, media, processed, prompt
from workers.contract.messages import FailureKind
from workers.contract.parts import Media, MediaKind

pytestmark = [pytest.mark.engine_env, pytest.mark.slow]
MODELS = ("llava", "qwen2_5_vl")
_NUM_TOKENS = OPTIONS["max_tokens"]


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    folder: Path
    process: EngineProcess


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Served]]:
    """Both models at once: they start side by side."""
    folder = tmp_path_factory.mktemp("pictures")
    kind = _seeing_kind(folder / "site")
    served: dict[str, Served] = {}
    try:
        for name in MODELS:
            model = seeing.make_model(folder / name, name)
            if name == "llava":
                _name_as_published(model / "model.safetensors")
            process = EngineProcess(
                kind,
                folder / f"{name}-engine",
                model_path=str(model),
                max_model_len=512,
                max_num_seqs=4,
                max_loras=0,
                settings={"block_size": 32, "image_max_pixels": 40_000},
            )
            served[name] = Served(model, process)
        for one in served.values():
            one.process.wait_ready()
        yield served
    finally:
        for one in served.values():
            one.process.process.terminate()
        for one in served.values():
            one.process.end()


def _seeing_kind(site: Path) -> Any:
    vllm, sglang = KINDS["vllm"].python, KINDS["sglang"].python
    if vllm is None or sglang is None:
        pytest.skip("no environment for vllm or sglang: `tuneyard env create vllm`")
    site.mkdir()
    (packages,) = (sglang.parent.parent / "lib").glob("python*/site-packages")
    for found in packages.glob("torchvision*"):
        if found.is_dir():
            (site / found.name).symlink_to(found)
    declared = ROOT / "tests" / "sgl_kernel_stub"
    path = os.pathsep.join([str(declared), str(site)])
    return dataclasses.replace(KINDS["vllm"], environment={"PYTHONPATH": path})


def _name_as_published(weights: Path) -> None:
    """transformers names Llava's weights otherwise than the models on the hubs, and vLLM, do."""
    renamed = {
        name.replace("vision_tower.", "vision_tower.vision_model.", 1)
        if "vision_tower.vision_model." not in name
        else name: tensor
        for name, tensor in load_file(weights).items()
    }
    save_file(renamed, weights, {"format": "pt"})


@pytest.fixture(params=MODELS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def client(started: dict[str, Served], kind: str) -> AsyncIterator[WorkerClient]:
    opened = await started[kind].process.connect()
    yield opened
    await opened.close()


async def test_answers_are_those_of_generate_alone_and_in_a_mixed_batch(
    client: WorkerClient, started: dict[str, Served], kind: str
) -> None:
    assert client.hello.media == {MediaKind.IMAGE: PLACEHOLDERS[kind]}
    folder = started[kind].folder
    model = seeing.load(folder)
    pictures = [seeing.picture(1), seeing.picture(2, 140, 56), seeing.picture(3, 90, 200)]
    rows = [pictures[:1], [], pictures[1:2], pictures, [], pictures[:1]]
    expected: list[list[int]] = []
    for row in rows:
        inputs = processed(kind, asked(*row), *row)
        expected.append(seeing.greedy(model, inputs, _NUM_TOKENS))
    assert len({tuple(ids) for ids in expected}) == 4
    for row, ids in zip(rows, expected, strict=True):
        answer = await client.generate(prompt(kind, *row), **OPTIONS)
        assert answer.ids == ids
    answers = await asyncio.gather(*(client.generate(prompt(kind, *r), **OPTIONS) for r in rows))
    assert [answer.ids for answer in answers] == expected


async def test_prefixes_are_shared_only_with_the_same_picture(
    client: WorkerClient, kind: str
) -> None:
    one, other = seeing.picture(21), seeing.picture(22)
    cold = await client.generate(prompt(kind, one), **OPTIONS)
    again = await client.generate(prompt(kind, one), **OPTIONS)
    different = await client.generate(prompt(kind, other), **OPTIONS)
    assert again.end.cached_tokens == 32, "one whole block, which the picture begins in"
    assert different.end.cached_tokens == 0
    assert again.ids == cold.ids != different.ids


async def test_a_large_picture_is_made_smaller_as_the_setting_says(
    client: WorkerClient, started: dict[str, Served], kind: str
) -> None:
    folder = started[kind].folder
    large = seeing.picture(5, 500, 320)
    answer = await client.generate(prompt(kind, large), **OPTIONS)
    smaller = large.resize((250, 160))
    inputs = processed(kind, asked(smaller), smaller)
    assert answer.end.prompt_tokens == inputs["input_ids"].shape[1]
    assert answer.ids == seeing.greedy(seeing.load(folder), inputs, _NUM_TOKENS)


async def test_what_cannot_be_read_is_refused_by_its_place(client: WorkerClient, kind: str) -> None:
    good = seeing.png(seeing.picture(1))
    place = "messages[0].content[0]"
    for refused, failure in (
        (media(kind, good[: len(good) // 2]), FailureKind.INVALID_MEDIA),
        (Media(MediaKind.VIDEO, "<|video_pad|>", good, place), FailureKind.UNSUPPORTED),
        (Media(MediaKind.IMAGE, "<picture>", good, place), FailureKind.UNSUPPORTED),
    ):
        parts: list[Any] = [refused]
        answer = await client.generate(parts, **OPTIONS)
        assert (answer.end.kind, answer.end.param) == (failure, place)


def test_a_model_that_sees_is_refused_where_vllm_has_no_torchvision(
    started: dict[str, Served], tmp_path: Path
) -> None:
    folder = started["llava"].folder
    process = EngineProcess(KINDS["vllm"], tmp_path / "blind", model_path=str(folder))
    try:
        with pytest.raises(RuntimeError, match="only where torchvision is installed"):
            process.wait_ready()
    finally:
        process.end()
