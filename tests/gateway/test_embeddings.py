"""Embeddings and scores through OpenAI's own client and plain HTTP."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from server.embeddings.schemas import EmbeddingList
from server.scores.schemas import ScoreEvaluation
from tests.gateway.conftest import (
    ALIAS,
    KEY,
    MODEL,
    Gateway,
    make_config,
    start_gateway,
    start_worker,
)


@pytest.fixture(scope="module")
def pooling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("pooling")
    worker = start_worker(folder, "engine", [], capabilities=["embed", "score"])
    running = start_gateway(make_config(folder), [worker], [MODEL, "asleep"])
    yield running
    running.stop()
    worker.stop()


def post(gateway: Gateway, path: str, **body: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {KEY}"}
    return httpx.post(f"{gateway.url}{path}", json={"model": MODEL, **body}, headers=headers)


def test_the_sdks_base64_and_plain_floats_are_the_same_vectors(pooling: Gateway) -> None:
    client = pooling.client()
    packed = client.embeddings.create(model=MODEL, input=["one two", "three"])
    plain = client.embeddings.create(
        model=MODEL, input=["one two", "three"], encoding_format="float"
    )
    assert [e.index for e in packed.data] == [0, 1]
    assert [e.embedding for e in packed.data] == [pytest.approx(e.embedding) for e in plain.data]
    assert packed.data[0].embedding != packed.data[1].embedding
    assert packed.model == MODEL
    assert packed.usage.prompt_tokens == packed.usage.total_tokens == 3


async def test_the_async_client_gets_them_too(pooling: Gateway) -> None:
    async with pooling.async_client() as client:
        answer = await client.embeddings.create(model=MODEL, input="one two", dimensions=4)
    assert len(answer.data) == 1
    assert len(answer.data[0].embedding) == 4


def test_the_body_is_as_documented(pooling: Gateway) -> None:
    raw = post(pooling, "/v1/embeddings", input="one", encoding_format="base64")
    body = EmbeddingList.model_validate_json(raw.content, strict=True)
    spelled = body.data[0].embedding
    assert isinstance(spelled, str)
    values = struct.unpack("<8f", base64.b64decode(spelled))
    default = post(pooling, "/v1/embeddings", input="one").json()
    assert default["data"][0]["embedding"] == pytest.approx(values)


def test_an_alias_is_answered_and_echoed(pooling: Gateway) -> None:
    answer = pooling.client().embeddings.create(model=ALIAS, input="one two")
    assert (answer.model, answer.usage.prompt_tokens) == (ALIAS, 2)
    scored = post(pooling, "/v1/score/evaluation", model=ALIAS, messages=["one"]).json()
    assert (scored["model"], scored["scores"]) == (ALIAS, [1.0])


def test_token_inputs_are_one_input_or_many(pooling: Gateway) -> None:
    client = pooling.client()
    client.embeddings.create(model=MODEL, input="one two three")
    one = client.embeddings.create(model=MODEL, input=[1, 3])
    many = client.embeddings.create(model=MODEL, input=[[1, 3], [5]])
    assert (len(one.data), one.usage.prompt_tokens) == (1, 2)
    assert (len(many.data), many.usage.prompt_tokens) == (2, 3)
    assert many.data[0].embedding == one.data[0].embedding


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["fine", ""]}, "input[1]"),
        ({"input": [[]]}, "input[0]"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": "x", "dimensions": 0}, "dimensions"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "x", "extra": 1}, "extra"),
        ({}, "input"),
    ],
)
def test_a_wrong_body_is_refused_by_name(
    pooling: Gateway, body: dict[str, Any], param: str
) -> None:
    answer = post(pooling, "/v1/embeddings", **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_model_that_does_not_pool_is_refused_before_its_engine_is_asked(
    client: openai.OpenAI, gateway: Gateway
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=MODEL, input="x")
    assert caught.value.param == "model"
    assert post(gateway, "/v1/score/evaluation", messages=["x"]).status_code == 400


def test_texts_are_scored_in_their_order(pooling: Gateway) -> None:
    raw = post(pooling, "/v1/score/evaluation", messages=["one", "one two three"])
    body = ScoreEvaluation.model_validate_json(raw.content, strict=True)
    assert body.id.startswith("scoreval-")
    assert (body.object, body.model, body.scores) == ("score.evaluation", MODEL, [1.0, 3.0])
    cut = post(pooling, "/v1/score/evaluation", messages=["one two three"], max_length=2)
    assert cut.json()["scores"] == [2.0]
    assert post(pooling, "/v1/score/evaluation", messages=[]).status_code == 400
