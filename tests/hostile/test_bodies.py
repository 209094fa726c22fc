"""Bodies in which everything is wrong: the first fault is told, and the work does not grow with
their number."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

import pytest
from pydantic import BaseModel

from server.body_size import MAX_NAMES, check_size
from server.chat.schemas import ChatCompletionRequest
from server.completions.schemas import CompletionRequest
from server.embeddings.schemas import EmbeddingRequest
from server.errors import InvalidRequest
from server.fine_tuning.schemas import CreateJob
from server.scores.schemas import ScoreRequest
from server.uploads.schemas import CompleteUpload
from server.validation import read_body
from tests.call_counts import num_calls

MB = 1024 * 1024
START = '{"model": "m", "messages": [{"role": "user", "content": "x"}], '
MESSAGE = '{"model": "m", "messages": [{"role": "user", '
JOB = '{"model": "m", "training_file": "f", '

Shape = tuple[type[BaseModel], str, str, str]
"""What reads it, how it begins, what is repeated, how it ends. `%d` is another number each time."""

ITEMS: dict[str, Shape] = {
    "content": (ChatCompletionRequest, MESSAGE + '"content": [', "1", "]}]}"),
    "parts": (ChatCompletionRequest, MESSAGE + '"content": [', "{}", "]}]}"),
    "messages": (ChatCompletionRequest, '{"model": "m", "messages": [', "1", "]}"),
    "fields": (ChatCompletionRequest, '{"model": "m", "messages": [', '{"x": 1}', "]}"),
    "stop": (ChatCompletionRequest, START + '"stop": [', "1", "]}"),
    "stop tokens": (ChatCompletionRequest, START + '"stop_token_ids": [', '""', "]}"),
    "tools": (ChatCompletionRequest, START + '"tools": [', "1", "]}"),
    "choices": (ChatCompletionRequest, START + '"guided_choice": [', "1", "]}"),
    "documents": (ChatCompletionRequest, START + '"documents": [', "1", "]}"),
    "prompt": (CompletionRequest, '{"model": "m", "prompt": [', "0.5", "]}"),
    "prompts": (CompletionRequest, '{"model": "m", "prompt": [', "[[]]", "]}"),
    "input": (EmbeddingRequest, '{"model": "m", "input": [', "0.5", "]}"),
    "inputs": (EmbeddingRequest, '{"model": "m", "input": [', "[]", "]}"),
    "scores": (ScoreRequest, '{"model": "m", "messages": [', "1", "]}"),
    "parts of an upload": (CompleteUpload, '{"part_ids": [', "1", "]}"),
    "integrations": (CreateJob, JOB + '"integrations": [', "1", "]}"),
}
MEMBERS: dict[str, Shape] = {
    "unknown": (ChatCompletionRequest, START, '"u%d": 1', "}"),
    "in a message": (ChatCompletionRequest, MESSAGE, '"u%d": 1', "}]}"),
    "bias": (ChatCompletionRequest, START + '"logit_bias": {', '"%d": ""', "}}"),
    "metadata": (ChatCompletionRequest, START + '"metadata": {', '"%d": 1', "}}"),
    "of a job": (CreateJob, JOB, '"u%d": 1', "}"),
    "metadata of a job": (CreateJob, JOB + '"metadata": {', '"%d": 1', "}}"),
}
SHAPES = ITEMS | MEMBERS


def body_of(shape: Shape, size: int) -> bytes:
    _, start, item, end = shape
    count = max(1, (size - len(start)) // (len(item) + 1))
    items = (item % number if "%d" in item else item for number in range(count))
    return (start + ",".join(items) + end).encode()


def refused(model: type[BaseModel], body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        asyncio.run(read_body(model, body))
    return caught.value


@pytest.mark.parametrize("name", SHAPES)
def test_the_first_fault_is_told(name: str) -> None:
    model, start, _, _ = shape = SHAPES[name]
    error = refused(model, body_of(shape, 90_000))
    place = start[len(START) :].split('"')[1:2] if start.startswith(START) else []
    assert error.code is not None
    assert error.param is not None
    assert not place or error.param.startswith(place[0])
    assert len(error.message) < 500


@pytest.mark.parametrize("name", ITEMS)
def test_wrong_items_cost_no_more_by_the_thousand(name: str) -> None:
    model = ITEMS[name][0]
    few, many = body_of(ITEMS[name], 2_000), body_of(ITEMS[name], 90_000)
    refused(model, few)
    calls = [num_calls(lambda body=body: refused(model, body)) for body in (few, many)]
    assert calls[1] < calls[0] + 200, calls


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("size", [2 * MB, 8 * MB])
def test_a_large_body_takes_a_few_times_its_size(name: str, size: int) -> None:
    model, body = SHAPES[name][0], body_of(SHAPES[name], size)
    gc.collect()
    tracemalloc.start()
    try:
        refused(model, body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * size + 16 * MB, f"{peak / MB:.0f} MB"


def test_a_large_body_is_looked_at_a_piece_at_a_time() -> None:
    """Other requests have their turn between the pieces."""

    async def turns(body: bytes) -> int:
        checking = asyncio.ensure_future(check_size(body))
        count = 0
        while not checking.done():
            count += 1
            await asyncio.sleep(0)
        await checking
        return count

    text = b'{"text": "' + b'a, b: [c] \\" \\\\ ' * (8 * MB // 16) + b'"}'
    assert asyncio.run(turns(text)) >= 60


@pytest.mark.parametrize("offset", range(9))
def test_marks_in_strings_do_not_count(offset: int) -> None:
    """Wherever the pieces are cut."""
    inside = b"," * offset + b'\\",:[{\\\\' * 150_000
    asyncio.run(check_size(b'{"a": "' + inside + b'"}'))
    outside = b'"\\\\":1,' * (MAX_NAMES + 1)
    with pytest.raises(InvalidRequest, match="members of objects"):
        asyncio.run(check_size(b'{"a": "' + inside + b'", ' + outside))


def test_a_long_value_is_not_sent_back_whole() -> None:
    body = START.encode() + b'"service_tier": "' + b"x" * MB + b'"}'
    error = refused(ChatCompletionRequest, body)
    assert error.param == "service_tier"
    assert len(error.message) < 500


LONG: list[tuple[type[BaseModel], str, str, str]] = [
    (ChatCompletionRequest, '{"model": "m", "messages": [%s]}',
     '{"role": "user", "content": "x"}', "messages"),
    (ChatCompletionRequest, MESSAGE + '"content": [%s]}]}', '{"type": "text", "text": "x"}',
     "messages[0].content"),
    (ChatCompletionRequest, START + '"stop": [%s]}', '"x"', "stop"),
    (ChatCompletionRequest, START + '"stop_token_ids": [%s]}', "1", "stop_token_ids"),
    (ChatCompletionRequest, START + '"guided_choice": [%s]}', '"x"', "guided_choice"),
    (ChatCompletionRequest, START + '"documents": [%s]}', "{}", "documents"),
    (CompletionRequest, '{"model": "m", "prompt": [%s]}', '"x"', "prompt"),
    (CompletionRequest, '{"model": "m", "prompt": [%s]}', "[1]", "prompt"),
    (EmbeddingRequest, '{"model": "m", "input": [%s]}', '"x"', "input"),
    (EmbeddingRequest, '{"model": "m", "input": [%s]}', "[1]", "input"),
    (ScoreRequest, '{"model": "m", "messages": [%s]}', '"x"', "messages"),
    (CreateJob, JOB + '"integrations": [%s]}', "{}", "integrations"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "body", "item", "param"), LONG, ids=[f"{c[3]} {c[2]}" for c in LONG]
)
def test_a_right_list_that_is_too_long(
    model: type[BaseModel], body: str, item: str, param: str
) -> None:
    error = refused(model, (body % ", ".join([item] * 5000)).encode())
    assert (error.code, error.param) == ("array_above_max_length", param)


def test_an_object_of_too_many_members() -> None:
    members = ", ".join(f'"{number}": 1' for number in range(5000))
    error = refused(ChatCompletionRequest, f'{START}"logit_bias": {{{members}}}}}'.encode())
    assert (error.code, error.param) == ("object_above_max_properties", "logit_bias")
