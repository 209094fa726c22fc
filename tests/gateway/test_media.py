"""Media of requests: data URLs, downloads from real servers, and every address that is not allowed.

The servers are local, so their hosts are named in `private_hosts`; the tests of addresses leave
them out.
"""

from __future__ import annotations

import asyncio
import base64
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from server.config import Media
from server.errors import InvalidRequest
from server.media import MediaLoader
from server.media.addresses import is_public
from templates.conversation import MediaKind, MediaPart

PLACE = "messages[0].content[1]"
Answer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


def png(width: int = 2, height: int = 2) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    rows = b"".join(b"\0" + b"\x7f\x20\xe0" * width for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


PNG = png()
WAV = b"RIFF\x24\0\0\0WAVEfmt "


def data_url(data: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def picture(url: str, kind: MediaKind = MediaKind.IMAGE) -> MediaPart:
    return MediaPart(kind, url, place=PLACE)


async def load(*parts: MediaPart, **settings: Any) -> list[bytes]:
    loader = MediaLoader(Media(**settings))
    try:
        return list((await loader.load(parts)).values())
    finally:
        await loader.close()


async def refusal(*parts: MediaPart, **settings: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        await load(*parts, **settings)
    assert caught.value.status == 400
    return caught.value


@asynccontextmanager
async def image_server(answer: Answer) -> AsyncIterator[str]:
    """Yields `127.0.0.1:port`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        try:
            await answer(head, writer)
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def says(status: str, *headers: str, body: bytes = b"") -> Answer:
    async def answer(_head: str, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", *headers, "Connection: close", "", ""]
        writer.write("\r\n".join(lines).encode() + body)

    return answer


def trusting(host: str) -> dict[str, Any]:
    return {"allowed_hosts": (host,), "private_hosts": (host,)}


async def test_data_urls_are_read() -> None:
    large = png(400, 400) + bytes(600_000)
    parts = [
        picture(data_url(PNG)),
        MediaPart(MediaKind.IMAGE, data_url(large), place="messages[0].content[2]"),
        MediaPart(MediaKind.AUDIO, data_url(WAV, "audio/wav"), place="messages[0].content[3]"),
    ]
    assert await load(*parts) == [PNG, large, WAV]


@pytest.mark.parametrize(
    ("kind", "url", "code"),
    [
        ("image", "data:image/png;base64,@@@@", "invalid_base64_image"),
        ("image", "data:image/png;base64", "invalid_image_url"),
        ("image", "data:image/png;base64,", "empty_image_file"),
        ("image", data_url(b"%PDF-1.7"), "invalid_image_format"),
        ("image", data_url(WAV), "invalid_image_format"),
        ("audio", data_url(PNG, "audio/wav"), "invalid_audio_format"),
        ("audio", data_url(b"ID3\x04", "audio/wav"), "invalid_audio_format"),
        ("video", data_url(PNG, "video/mp4"), "invalid_video_format"),
        ("image", "/etc/passwd", "invalid_image_url"),
        ("image", "file:///etc/passwd", "invalid_image_url"),
        ("image", "ftp://images.example.com/a.png", "invalid_image_url"),
        ("image", "http://[::1", "invalid_image_url"),
        ("image", "https://images.example.com/a.png", "invalid_image_url"),
    ],
)
async def test_what_is_wrong_is_named(kind: str, url: str, code: str) -> None:
    error = await refusal(picture(url, MediaKind(kind)))
    assert (error.code, error.param) == (code, PLACE)


async def test_pictures_are_downloaded_from_allowed_hosts() -> None:
    async with image_server(says("200 OK", body=PNG)) as host:
        assert await load(picture(f"http://{host}/a.png"), **trusting(host)) == [PNG]
        other = await refusal(picture(f"http://{host}/a.png"), **trusting("example.com"))
        assert other.code == "invalid_image_url"
        named = f"http://user:secret@{host}/a.png"
        assert (await refusal(picture(named), **trusting(host))).code == "invalid_image_url"


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"])
async def test_an_allowed_host_at_a_private_address_is_not_connected_to(name: str) -> None:
    asked: list[str] = []

    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        asked.append(head)
        await says("200 OK", body=PNG)(head, writer)

    async with image_server(answer) as host:
        host = f"{name}:{host.partition(':')[2]}"
        error = await refusal(picture(f"http://{host}/a.png"), allowed_hosts=(host,))
    assert error.code in ("invalid_image_url", "failed_to_download_image")
    assert not asked


async def test_a_name_is_resolved_once_and_its_checked_address_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lookups: list[object] = []
    heads: list[str] = []

    async def lookup(host: object, port: object, **_: object) -> list[Any]:
        lookups.append(host)
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        await says("200 OK", body=PNG)(head, writer)

    async with image_server(answer) as address:
        host = f"images.test:{address.partition(':')[2]}"
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lookup)
        assert await load(picture(f"http://{host}/a.png"), **trusting(host)) == [PNG]
    assert lookups == ["images.test"]
    assert f"Host: {host}" in heads[0]


async def test_every_address_of_a_name_must_be_public(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lookup(_host: object, port: object, **_: object) -> list[Any]:
        return [(2, 1, 6, "", (ip, port)) for ip in ("93.184.216.34", "10.0.0.7")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lookup)
    error = await refusal(picture("http://images.test/a.png"), allowed_hosts=("images.test",))
    assert error.code == "invalid_image_url"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("2002:0a00:0001::1", False),
        ("64:ff9b::7f00:1", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


async def test_redirects_are_checked_as_the_first_url_is() -> None:
    async with image_server(says("200 OK", body=PNG)) as other:
        away = says("302 Found", f"Location: http://{other}/b.png")
        async with image_server(away) as host:
            error = await refusal(picture(f"http://{host}/a.png"), **trusting(host))
            assert error.code == "invalid_image_url"
            both = {"allowed_hosts": (host, other), "private_hosts": (host, other)}
            assert await load(picture(f"http://{host}/a.png"), **both) == [PNG]
    async with image_server(says("301 Moved", "Location: /again")) as host:
        error = await refusal(picture(f"http://{host}/a.png"), **trusting(host))
        assert error.code == "failed_to_download_image"


async def test_a_body_over_the_limit_is_not_read_to_its_end() -> None:
    sent = 0

    async def endless(_head: str, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + PNG)
        while sent < 50_000_000:
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536

    async with image_server(endless) as host:
        error = await refusal(picture(f"http://{host}/a"), **trusting(host), max_bytes=100_000)
    assert error.code == "image_file_too_large"
    assert sent < 20_000_000
    async with image_server(says("200 OK", "Content-Length: 99999999")) as host:
        error = await refusal(picture(f"http://{host}/a"), **trusting(host), max_bytes=100_000)
    assert error.code == "image_file_too_large"


async def test_limits_of_a_request() -> None:
    parts = [MediaPart(MediaKind.IMAGE, data_url(PNG), place=f"p{n}") for n in range(3)]
    error = await refusal(*parts, max_parts=2)
    assert (error.code, error.param) == ("array_above_max_length", "messages")
    error = await refusal(*parts, max_total_bytes=2 * len(PNG))
    assert error.code == "image_file_too_large"


@pytest.mark.parametrize(
    "answer",
    [
        says("404 Not Found"),
        says("200 OK", "Content-Encoding: gzip", body=PNG),
        says("nonsense"),
    ],
)
async def test_a_failed_download_is_the_callers_400(answer: Answer) -> None:
    async with image_server(answer) as host:
        error = await refusal(picture(f"http://{host}/a"), **trusting(host))
    assert (error.code, error.param) == ("failed_to_download_image", PLACE)


async def test_a_slow_download_is_given_up() -> None:
    async def slow(_head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(100):
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.write(b"x")

    async with image_server(slow) as host:
        error = await refusal(picture(f"http://{host}/a"), **trusting(host), timeout_s=0.3)
    assert error.code == "failed_to_download_image"
