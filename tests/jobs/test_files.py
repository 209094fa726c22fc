from __future__ import annotations

import io
import json
import shutil
import threading
from collections.abc import Generator
from pathlib import Path

import httpx
import openai
import pytest
from openai import OpenAI

from server.files.names import clean_filename
from tests.jobs.live import OTHER_KEY, Gateway, running_gateway, wait_until

MAX_FILE_BYTES = 4 * 1024 * 1024
LINE = b'{"messages": [{"role": "user", "content": "hi"}]}\n'


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Generator[Gateway]:
    settings = {"limits": {"max_file_bytes": MAX_FILE_BYTES}}
    with running_gateway(tmp_path_factory.mktemp("files"), settings) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> OpenAI:
    return gateway.client()


def blobs_of(gateway: Gateway) -> set[Path]:
    return {path for path in (gateway.data / "files").rglob("*") if path.is_file()}


def test_a_file_is_uploaded_read_listed_and_deleted(gateway: Gateway, client: OpenAI) -> None:
    content = LINE * 3
    file = client.files.create(file=("train.jsonl", content), purpose="fine-tune")
    assert file.id.startswith("file-")
    assert (file.filename, file.bytes, file.purpose) == ("train.jsonl", len(content), "fine-tune")
    assert file.status == "processed"
    assert client.files.wait_for_processing(file.id, max_wait_seconds=5).id == file.id
    assert client.files.retrieve(file.id) == file
    answer = client.files.content(file.id)
    assert answer.content == content
    assert answer.response.headers["content-type"] == "application/octet-stream"
    assert answer.response.headers["content-disposition"] == 'attachment; filename="train.jsonl"'
    assert file.id in [f.id for f in client.files.list(purpose="fine-tune")]
    assert file.id not in [f.id for f in client.files.list(purpose="batch")]
    deleted = client.files.delete(file.id)
    assert (deleted.id, deleted.deleted) == (file.id, True)
    assert not (gateway.data / "files" / file.id).exists()
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError) as error:
            call(file.id)
        assert error.value.param == "id"
        assert f"No such File object: {file.id}" in error.value.message


async def test_the_async_client_uploads_and_reads_too(gateway: Gateway) -> None:
    async with openai.AsyncOpenAI(
        api_key=gateway.client().api_key, base_url=f"{gateway.url}/v1"
    ) as client:
        file = await client.files.create(file=io.BytesIO(LINE), purpose="user_data")
        assert (await client.files.content(file.id)).content == LINE


def test_pages_hold_what_was_asked_for(client: OpenAI) -> None:
    ids = [client.files.create(file=LINE, purpose="vision").id for _ in range(5)]
    page = client.files.list(purpose="vision", limit=2, order="asc")
    assert [f.id for f in page] == ids
    page = client.files.list(purpose="vision", limit=2)
    assert page.has_more
    assert [f.id for f in page] == ids[::-1]
    with pytest.raises(openai.NotFoundError):
        client.files.list(after="file-nothing")


@pytest.mark.parametrize("limit", [0, 10_001])
def test_page_sizes_have_limits(client: OpenAI, limit: int) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.files.list(limit=limit)
    assert error.value.param == "limit"


def test_another_tenant_sees_nothing_of_it(gateway: Gateway, client: OpenAI) -> None:
    file = client.files.create(file=LINE, purpose="user_data")
    other = gateway.client(OTHER_KEY)
    assert file.id not in [f.id for f in other.files.list()]
    for call in (other.files.retrieve, other.files.content, other.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(file.id)
    with pytest.raises(openai.NotFoundError):
        other.files.list(after=file.id)
    assert client.files.retrieve(file.id).id == file.id


def test_files_expire_when_told_to_and_batch_input_by_itself(client: OpenAI) -> None:
    file = client.files.create(
        file=LINE, purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.expires_at == file.created_at + 3600
    batch = client.files.create(file=("b.jsonl", LINE), purpose="batch")
    assert batch.expires_at == batch.created_at + 30 * 24 * 3600
    assert client.files.create(file=LINE, purpose="user_data").expires_at is None


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({}, "purpose", "missing_required_parameter"),
        ({"purpose": "fine-tune-results"}, "purpose", "invalid_value"),
        ({"purpose": "nonsense"}, "purpose", "invalid_value"),
        ({"purpose": "evals", "colour": "red"}, "colour", "unknown_parameter"),
        (
            {"purpose": "evals", "expires_after[anchor]": "created_at"},
            "expires_after.seconds",
            "missing_required_parameter",
        ),
        (
            {"purpose": "evals", "expires_after[seconds]": "4000"},
            "expires_after.anchor",
            "missing_required_parameter",
        ),
        (
            {
                "purpose": "evals",
                "expires_after[anchor]": "now",
                "expires_after[seconds]": "4000",
            },
            "expires_after.anchor",
            "invalid_value",
        ),
        *(
            (
                {
                    "purpose": "evals",
                    "expires_after[anchor]": "created_at",
                    "expires_after[seconds]": seconds,
                },
                "expires_after.seconds",
                code,
            )
            for seconds, code in (
                ("3599", "integer_below_min_value"),
                ("2592001", "integer_above_max_value"),
                ("soon", "invalid_type"),
            )
        ),
    ],
)
def test_wrong_fields_are_named(
    gateway: Gateway, fields: dict[str, str], param: str, code: str
) -> None:
    before = blobs_of(gateway)
    with gateway.http() as http:
        answer = http.post("/files", data=fields, files={"file": ("a.jsonl", LINE)})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert blobs_of(gateway) == before


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"--x--"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"nonsense"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nno name\r\n--x--\r\n"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nevals\r\n--x\r\n'
            b'content-disposition: form-data; name="file"; filename="a"\r\n\r\ncut off',
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nevals\r\n--x\r\n'
            b'content-disposition: form-data; name="file"\r\n\r\ntext\r\n--x--\r\n',
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\n\xff\r\n--x--\r\n',
        ),
        ("multipart/form-data; boundary=" + "x" * 3000, b""),
        ("multipart/form-data; boundary=\xe9".encode("latin-1").decode("latin-1"), b""),
    ],
)
def test_broken_uploads_are_refused(gateway: Gateway, content_type: str, body: bytes) -> None:
    before = blobs_of(gateway)
    with gateway.http() as http:
        answer = http.post(
            "/files", content=body, headers={"content-type": content_type.encode("latin-1")}
        )
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert blobs_of(gateway) == before


BAD_LINES = {
    "empty file": b"",
    "only line ends": b"\n\n\n",
    "text": b"hello world\n",
    "array": b"[1, 2]\n",
    "number": b"12\n",
    "null": b"null\n",
    "string": b'"text"\n',
    "cut off": b'{"messages": [\n',
    "single quotes": b"{'messages': []}\n",
    "comma at end": b'{"a": 1,}\n',
    "pretty printed": json.dumps({"a": [1]}, indent=2).encode(),
    "one big array": json.dumps([{"a": 1}]).encode(),
    "nan": b'{"a": NaN}\n',
    "latin-1": b'{"a": "\xe9"}\n',
    "utf-16": '{"a": 1}\n'.encode("utf-16"),
    "bom within": LINE + b"\xef\xbb\xbf" + LINE,
    "utf-16 without a mark": '{"a": 1}\n'.encode("utf-16-le"),
    "utf-32": '{"a": 1}\n'.encode("utf-32"),
    "nul bytes": b"\0\0\0",
    "csv": b"prompt,completion\na,b\n",
    "two on a line": b'{"a": 1}{"b": 2}\n',
    "bad second line": LINE + b"oops\n" + LINE,
    "empty line within": LINE + b"\n" + LINE,
    "unescaped control character": b'{"a": "x\x01"}\n',
    "lone escape": b'{"a": "\\x"}\n',
    "parquet": b"PAR1\x15\x04\x15",
    "gzip": b"\x1f\x8b\x08\x00",
    "very deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_files_that_are_not_json_lines_are_refused(
    gateway: Gateway, client: OpenAI, kind: str
) -> None:
    before = blobs_of(gateway)
    for purpose in ("fine-tune", "batch"):
        with pytest.raises(openai.BadRequestError) as error:
            client.files.create(file=("a.jsonl", BAD_LINES[kind]), purpose=purpose)  # type: ignore[arg-type]
        assert error.value.param == "file"
    assert blobs_of(gateway) == before


def test_the_bad_line_is_named(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="Line 2 is not a dictionary") as error:
        client.files.create(file=("a.jsonl", LINE + b"oops, text\n"), purpose="fine-tune")
    assert "line starts with" in error.value.message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": 1}\n'.encode("utf-16"), "looks like UTF-16. Save it as UTF-8"),
        ('{"a": 1}\n'.encode("utf-16-be"), "looks like UTF-16"),
        ('{"a": 1}\n'.encode("utf-32"), "looks like UTF-32"),
        (LINE + b'{"a": "caf\xe9"}\n', "Line 2: .* looks like Windows-1252 or Latin-1"),
        (json.dumps([{"a": 1}]).encode(), "looks like one JSON array"),
        (json.dumps({"a": [1]}, indent=2).encode(), "looks like objects over several lines"),
        (LINE + BAD_LINES["very deep"], "Line 2 is nested too deeply"),
    ],
)
def test_a_file_of_another_kind_is_named(client: OpenAI, content: bytes, said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said):
        client.files.create(file=("a.jsonl", content), purpose="fine-tune")


def test_a_mark_ahead_of_utf8_is_accepted(client: OpenAI) -> None:
    content = b"\xef\xbb\xbf" + LINE
    file = client.files.create(file=("a.jsonl", content), purpose="fine-tune")
    assert client.files.content(file.id).content == content


@pytest.mark.parametrize(
    "content", [LINE.rstrip(), LINE + b"\n\n", LINE.replace(b"\n", b"\r\n"), b'{"a": "\\u00e9"}']
)
def test_harmless_line_ends_are_accepted(client: OpenAI, content: bytes) -> None:
    file = client.files.create(file=("a.jsonl", content), purpose="fine-tune")
    assert client.files.content(file.id).content == content


def test_a_line_longer_than_a_chunk_is_read_whole(client: OpenAI) -> None:
    content = json.dumps({"text": "x" * 1_500_000}).encode() + b"\n" + LINE
    file = client.files.create(file=("a.jsonl", content), purpose="fine-tune")
    assert client.files.content(file.id).content == content


def test_other_extensions_are_refused_for_line_files(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"Must be \.jsonl, \.json, \.csv"):
        client.files.create(file=("a.pdf", LINE), purpose="fine-tune")
    with pytest.raises(openai.BadRequestError, match=r"Batch API. Must be \.jsonl$"):
        client.files.create(file=("a.csv", LINE), purpose="batch")
    client.files.create(file=("no extension", LINE), purpose="fine-tune")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\windows\\system.ini", "system.ini"),
        ("..", "upload"),
        (".", "upload"),
        ("a/", "upload"),
        ("x" * 300 + ".txt", "x" * 251 + ".txt"),
        ("naïve 文件.txt", "naïve 文件.txt"),
        ('quote".txt', 'quote".txt'),
        ("semi;colon.txt", "semi;colon.txt"),
        ("%2e%2e%2fpasswd", "%2e%2e%2fpasswd"),
        ("$(id).txt", "$(id).txt"),
    ],
)
def test_file_names_are_shown_but_never_a_path(
    gateway: Gateway, client: OpenAI, given: str, kept: str
) -> None:
    file = client.files.create(file=(given, b"data"), purpose="user_data")
    assert file.filename in (kept, kept.replace('"', "%22"))
    assert (gateway.data / "files" / file.id).read_bytes() == b"data"
    header = client.files.content(file.id).response.headers["content-disposition"]
    assert header.startswith('attachment; filename="')
    assert "\n" not in header


def test_control_characters_are_left_out_of_names() -> None:
    assert clean_filename("tab\tname\x00\r\n.txt") == "tabname.txt"
    assert clean_filename("right\u202eto left") == "rightto left"


@pytest.mark.parametrize(
    "file_id", ["..%2f..%2ftuneyard.db", "%2e%2e", "unfinished", "file-%00", "x" * 5000, "a b", "é"]
)
def test_ids_are_no_paths_either(gateway: Gateway, file_id: str) -> None:
    with gateway.http() as http:
        for path in (f"/files/{file_id}", f"/files/{file_id}/content"):
            assert http.get(path).status_code == 404
            assert http.delete(f"/files/{file_id}").status_code == 404


def test_a_file_over_the_limit_is_refused_without_reading_it_all(gateway: Gateway) -> None:
    """The body never ends by itself; the answer comes all the same."""
    sent = 0
    stop = threading.Event()

    def endless() -> Generator[bytes]:
        nonlocal sent
        yield b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nevals\r\n--x\r\n'
        yield b'content-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        while not stop.is_set():
            sent += 65536
            yield b"x" * 65536

    before = blobs_of(gateway)
    timer = threading.Timer(20, stop.set)
    timer.start()
    with gateway.http() as http:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        try:
            status = http.post("/files", content=endless(), headers=headers).status_code
        except httpx.TransportError:
            status = 413  # The connection is closed while we were still sending.
    timer.cancel()
    assert not stop.is_set()
    assert status == 413
    assert sent < 10 * MAX_FILE_BYTES
    assert blobs_of(gateway) == before


def test_an_announced_length_over_the_limit_is_refused_at_once(gateway: Gateway) -> None:
    with gateway.http() as http:
        files = {"file": ("a", b"x" * (MAX_FILE_BYTES + 2 * 1024 * 1024))}
        answer = http.post("/files", data={"purpose": "evals"}, files=files)
    assert answer.status_code == 413
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_file_just_over_the_limit_is_refused(gateway: Gateway) -> None:
    with gateway.http() as http:
        files = {"file": ("a", b"x" * (MAX_FILE_BYTES + 1))}
        answer = http.post("/files", data={"purpose": "evals"}, files=files)
        assert answer.status_code == 413
        files = {"file": ("a", b"x" * MAX_FILE_BYTES)}
        answer = http.post("/files", data={"purpose": "evals"}, files=files)
        assert answer.status_code == 200


def test_a_repeat_with_the_same_idempotency_key_is_the_same_file(gateway: Gateway) -> None:
    before = blobs_of(gateway)
    with gateway.http() as http:

        def post(content: bytes) -> httpx.Response:
            return http.post(
                "/files",
                data={"purpose": "evals"},
                files={"file": ("a", content)},
                headers={"Idempotency-Key": "k1"},
            )

        first, second, different = post(b"one"), post(b"one"), post(b"two")
    assert first.status_code == 200
    assert second.content == first.content
    assert different.status_code == 409
    assert different.json()["error"]["code"] == "idempotency_key_reused"
    assert len(blobs_of(gateway) - before) == 1


def test_an_upload_cut_off_by_the_client_leaves_nothing(gateway: Gateway) -> None:
    before = blobs_of(gateway)

    def breaking() -> Generator[bytes]:
        yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        yield b"x" * 100_000
        raise ConnectionError

    with gateway.http() as http, pytest.raises(ConnectionError):
        http.post(
            "/files",
            content=breaking(),
            headers={"content-type": "multipart/form-data; boundary=x"},
        )
    wait_until(lambda: blobs_of(gateway) == before)


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit")
def test_no_room_on_the_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of any file of the process stands for the full disk."""
    limit = 2 * 1024 * 1024
    prefix = ("prlimit", f"--fsize={limit}")
    with running_gateway(tmp_path, prefix=prefix) as gateway:
        client = gateway.client()
        kept = client.files.create(file=b"fits", purpose="user_data")
        before = blobs_of(gateway)
        with pytest.raises(openai.InternalServerError) as error:
            client.files.create(file=b"x" * (2 * limit), purpose="user_data")
        assert error.value.status_code == 507
        assert error.value.code == "insufficient_storage"
        assert blobs_of(gateway) == before
        assert client.files.content(kept.id).content == b"fits"
        assert [f.id for f in client.files.list()] == [kept.id]


def test_acknowledged_files_survive_a_kill(tmp_path: Path) -> None:
    with running_gateway(tmp_path) as gateway:
        file = gateway.client().files.create(file=b"kept", purpose="user_data")
        gateway.process.kill()
        gateway.process.wait()
    with running_gateway(tmp_path) as gateway:
        assert gateway.client().files.content(file.id).content == b"kept"
