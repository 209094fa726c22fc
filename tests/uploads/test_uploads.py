"""`/v1/uploads` with the official client: parts in any order, checked, cancelled, forgotten."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import openai
import psutil
import pytest
from openai import OpenAI

from tests.jobs.live import OTHER_KEY, Gateway, running_gateway

MAX_BYTES = 300 * 1024 * 1024
LINE = b'{"messages": [{"role": "user", "content": "hi"}]}\n'


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Generator[Gateway]:
    settings: dict[str, object] = {"limits": {"max_upload_bytes": MAX_BYTES}}
    with running_gateway(tmp_path_factory.mktemp("uploads"), settings) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> OpenAI:
    return gateway.client()


def begin(client: OpenAI, size: int, filename: str = "train.jsonl") -> str:
    upload = client.uploads.create(
        bytes=size, filename=filename, mime_type="text/jsonl", purpose="fine-tune"
    )
    assert upload.status == "pending"
    assert upload.expires_at == upload.created_at + 3600
    return upload.id


def add(client: OpenAI, upload_id: str, data: bytes) -> str:
    return client.uploads.parts.create(upload_id=upload_id, data=io.BytesIO(data)).id


def blobs_of(gateway: Gateway) -> set[str]:
    files = gateway.data / "files"
    return {str(path.relative_to(files)) for path in files.rglob("*") if path.is_file()}


def test_parts_that_come_in_parallel_become_the_file_in_the_named_order(
    gateway: Gateway, client: OpenAI
) -> None:
    content = b"".join(LINE.replace(b"hi", f"number {n}".encode()) for n in range(3000))
    pieces = [content[at : at + 20_000] for at in range(0, len(content), 20_000)]
    upload_id = begin(client, len(content))
    surplus = add(client, upload_id, b"sent, and not used")
    with ThreadPoolExecutor(8) as threads:
        backwards = list(threads.map(partial(add, client, upload_id), pieces[::-1]))
    done = client.uploads.complete(
        upload_id, part_ids=backwards[::-1], md5=hashlib.md5(content).hexdigest()
    )
    assert (done.status, done.bytes) == ("completed", len(content))
    assert done.file is not None
    assert (done.file.filename, done.file.purpose) == ("train.jsonl", "fine-tune")
    assert client.files.content(done.file.id).content == content
    assert blobs_of(gateway) == {done.file.id}, "the parts are gone"
    assert surplus not in blobs_of(gateway)
    for again in (
        lambda: client.uploads.complete(upload_id, part_ids=backwards[::-1]),
        lambda: client.uploads.cancel(upload_id),
        lambda: add(client, upload_id, b"more"),
    ):
        with pytest.raises(openai.BadRequestError, match="is completed, not pending") as error:
            again()
        assert error.value.code == "invalid_upload_status"
    client.files.delete(done.file.id)


def test_the_clients_own_helper_sends_a_large_file_in_bounded_memory(
    gateway: Gateway, client: OpenAI, tmp_path: Path
) -> None:
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        for _ in range(160):
            file.write(b"\x00\x01" * (512 * 1024))
    process = psutil.Process(gateway.process.pid)
    before = process.memory_info().rss
    done = client.uploads.upload_file_chunked(
        file=path, mime_type="application/octet-stream", purpose="vision"
    )
    assert done.status == "completed"
    assert done.file is not None
    assert done.file.bytes == 160 * 1024 * 1024
    assert process.memory_info().rss - before < 64 * 1024 * 1024
    client.files.delete(done.file.id)


def test_what_does_not_make_the_announced_file_is_refused_and_can_be_mended(
    client: OpenAI,
) -> None:
    upload_id = begin(client, 2 * len(LINE))
    first, second = add(client, upload_id, LINE), add(client, upload_id, LINE)
    broken = add(client, upload_id, b"x" * len(LINE))
    for part_ids, md5, param, said in (
        ([first], None, "part_ids", f"The parts have {len(LINE)} bytes"),
        ([first, first], None, "part_ids", "named twice"),
        ([first, "part_none"], None, "part_ids[1]", "no part 'part_none'"),
        ([first, second], "0" * 32, "md5", "The md5 of the parts is"),
        ([first, second], "abc", "md5", "pattern"),
        ([], None, "part_ids", "empty array"),
        ([first, broken], None, "file", "Line 2 is not a dictionary"),
    ):
        with pytest.raises(openai.BadRequestError, match=said) as error:
            client.uploads.complete(upload_id, part_ids=part_ids, md5=md5 or openai.omit)
        assert error.value.param == param
    assert client.uploads.complete(upload_id, part_ids=[second, first]).status == "completed"


def test_a_cancelled_upload_is_over_and_its_bytes_are_gone(
    gateway: Gateway, client: OpenAI
) -> None:
    before = blobs_of(gateway)
    upload_id = begin(client, 10)
    add(client, upload_id, b"0123456789")
    assert len(blobs_of(gateway)) == len(before) + 1
    assert client.uploads.cancel(upload_id).status == "cancelled"
    assert blobs_of(gateway) == before
    with pytest.raises(openai.BadRequestError, match="is cancelled, not pending"):
        add(client, upload_id, b"0123456789")


def test_parts_may_not_come_to_much_more_than_was_announced(
    gateway: Gateway, client: OpenAI
) -> None:
    upload_id = begin(client, 10)
    most = 64 * 1024 * 1024
    add(client, upload_id, b"a" * most)
    before = blobs_of(gateway)
    with pytest.raises(openai.APIStatusError) as error:
        add(client, upload_id, b"a" * 21)
    assert error.value.status_code == 413
    with pytest.raises(openai.APIStatusError) as error:
        add(client, upload_id, b"a" * (most + 1))
    assert error.value.status_code == 413
    assert blobs_of(gateway) == before
    client.uploads.cancel(upload_id)


def test_wrong_creations_are_refused_by_field(client: OpenAI) -> None:
    good = {"bytes": 10, "filename": "a.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}
    for change, param in (
        ({"bytes": 0}, "bytes"),
        ({"bytes": MAX_BYTES + 1}, "bytes"),
        ({"filename": "a.pdf"}, "filename"),
        ({"purpose": "song"}, "purpose"),
        ({"mime_type": ""}, "mime_type"),
        ({"expires_after": {"anchor": "created_at", "seconds": 5}}, "expires_after.seconds"),
        ({"colour": "red"}, "colour"),
    ):
        with pytest.raises(openai.BadRequestError) as error:
            client.post("/uploads", body={**good, **change}, cast_to=object)
        assert error.value.param == param


def test_another_project_sees_no_upload_of_mine(gateway: Gateway, client: OpenAI) -> None:
    upload_id = begin(client, len(LINE))
    part_id = add(client, upload_id, LINE)
    other = gateway.client(OTHER_KEY)
    for call in (
        lambda: add(other, upload_id, LINE),
        lambda: other.uploads.complete(upload_id, part_ids=[part_id]),
        lambda: other.uploads.cancel(upload_id),
    ):
        with pytest.raises(openai.NotFoundError, match=f"No such Upload object: {upload_id}"):
            call()
    theirs = begin(other, len(LINE))
    with pytest.raises(openai.BadRequestError) as error:
        other.uploads.complete(theirs, part_ids=[part_id])
    assert error.value.param == "part_ids[0]"
    assert client.uploads.complete(upload_id, part_ids=[part_id]).status == "completed"
