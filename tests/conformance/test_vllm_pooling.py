"""Embeddings and scores through vLLM's pooling runner, against transformers' own numbers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conformance.conftest import start
from tests.conformance.engines import KINDS, EngineProcess
from tests.engine import models
from tests.engine.conftest import WorkerClient
from tests.engine.test_pooling import TEXTS, body, hidden, pooled, rows, scorer_folder
from workers.contract.hello import Capability
from workers.contract.messages import Embed, Failed, FailureKind, Score, Scored
from workers.contract.parts import Text, Tokens

pytestmark = [pytest.mark.engine_env, pytest.mark.slow]
_LIMITS = {"max_model_len": 256, "max_num_seqs": 4, "max_loras": 0}


@dataclass(frozen=True, slots=True)
class Served:
    folder: Path
    model: Any
    process: EngineProcess


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Served]]:
    """Both engines at once: they start side by side."""
    folder = tmp_path_factory.mktemp("pooling")
    generator, scorer = models.make_model(folder / "generator"), folder / "scorer"
    scoring = scorer_folder(scorer)
    if KINDS["vllm"].python is None:
        pytest.skip("no environment for vllm: `tuneyard env create vllm`")
    settings = {"block_size": 32, "pooling": "mean", "is_matryoshka": True}
    served = {
        "embed": Served(generator, body(generator), _process(folder / "e", generator, settings)),
        "score": Served(scorer, scoring, _process(folder / "s", scorer, {"block_size": 32})),
    }
    try:
        for one in served.values():
            one.process.wait_ready()
        yield served
    finally:
        for one in served.values():
            one.process.end()


def _process(folder: Path, model: Path, settings: dict[str, Any]) -> EngineProcess:
    return EngineProcess(KINDS["vllm"], folder, model_path=str(model), settings=settings, **_LIMITS)


@pytest.fixture
async def embedding(started: dict[str, Served]) -> AsyncIterator[WorkerClient]:
    client = await started["embed"].process.connect()
    yield client
    await client.close()


@pytest.fixture
async def scoring(started: dict[str, Served]) -> AsyncIterator[WorkerClient]:
    client = await started["score"].process.connect()
    yield client
    await client.close()


async def test_embeddings_are_those_transformers_pools(
    embedding: WorkerClient, started: dict[str, Served]
) -> None:
    assert embedding.hello.capabilities == [Capability.EMBED]
    model = started["embed"].model
    inputs = [[Text(text)] for text in TEXTS]
    expected = torch.stack([pooled(hidden(model, text), "mean") for text in TEXTS])
    answer = await embedding.ask(Embed, inputs)
    torch.testing.assert_close(rows(answer), expected, atol=1e-4, rtol=0)
    assert answer.prompt_tokens == sum(len(models.tokenizer().encode(text)) for text in TEXTS)
    short = rows(await embedding.ask(Embed, inputs, 16))
    cut = torch.nn.functional.normalize(expected[:, :16], dim=-1)
    torch.testing.assert_close(short, cut, atol=1e-4, rtol=0)
    by_ids = await embedding.ask(Embed, [[Tokens(models.tokenizer().encode(TEXTS[0]))]])
    torch.testing.assert_close(rows(by_ids), expected[:1], atol=1e-4, rtol=0)


async def test_what_cannot_be_embedded_is_refused_and_the_engine_goes_on(
    embedding: WorkerClient,
) -> None:
    generated = await embedding.generate("a", max_tokens=1)
    assert generated.end.kind is FailureKind.UNSUPPORTED
    scored = await embedding.ask(Score, [[Text("a")]])
    assert isinstance(scored, Failed)
    assert scored.kind is FailureKind.UNSUPPORTED
    long = await embedding.ask(Embed, [[Tokens([5] * 300)]])
    assert long.kind is FailureKind.CONTEXT_LENGTH_EXCEEDED
    wide = await embedding.ask(Embed, [[Text("a")]], 4096)
    assert (wide.kind, wide.param) == (FailureKind.INVALID_REQUEST, "dimensions")
    assert len(rows(await embedding.ask(Embed, [[Text("a")]]))) == 1


async def test_scores_are_those_of_the_classifier(
    scoring: WorkerClient, started: dict[str, Served]
) -> None:
    assert scoring.hello.capabilities == [Capability.SCORE]
    model = started["score"].model
    answer = await scoring.ask(Score, [[Text(text)] for text in TEXTS])
    assert isinstance(answer, Scored), answer
    for text, score in zip(TEXTS, answer.scores, strict=True):
        ids = torch.tensor([models.tokenizer().encode(text)])
        with torch.no_grad():
            expected = float(model(input_ids=ids).logits[0, 0])
        assert score == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "embed"}, "declares no pooling"),
        ({"task": "generate", "pooling": "mean"}, "pooling is for a vLLM engine that embeds"),
    ],
)
def test_a_task_that_does_not_fit_is_refused_at_start(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        start("vllm", tmp_path / "engine", settings=settings)
