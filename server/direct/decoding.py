"""Request bodies in a content encoding: gzip and deflate, up to a limit."""

from __future__ import annotations

import asyncio
import zlib

from server.errors import InvalidRequest, TooLarge, UnsupportedEncoding

_ACCEPTED = "gzip, deflate"
_READ = frozenset({b"gzip", b"x-gzip", b"deflate"})
_PIECE_BYTES = 256 * 1024
"""What is decoded at a time; others have their turn between two pieces."""
_ANY_HEADER = 32 + zlib.MAX_WBITS
"""gzip's, or zlib's as deflate has it."""


class BodyDecoder:
    """Decodes one body at a time: a small one can be a thousand times larger afterwards."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._turn = asyncio.Lock()

    async def decode(self, body: bytes, encoding: bytes) -> bytes:
        """Raises UnsupportedEncoding, TooLarge, and InvalidRequest for what is not so encoded."""
        name = encoding.strip().lower()
        if name in (b"", b"identity"):
            return body
        if name not in _READ:
            raise UnsupportedEncoding(
                f"A body with the content encoding '{encoding.decode('latin-1')[:100]}' is not "
                f"read; please send it plain, or as one of: {_ACCEPTED}.",
                _ACCEPTED,
            )
        async with self._turn:
            return await self._inflate(body)

    async def _inflate(self, body: bytes) -> bytes:
        inflater = zlib.decompressobj(_ANY_HEADER)
        whole = bytearray()
        try:
            while not inflater.eof:
                piece = inflater.decompress(body, _PIECE_BYTES)
                body = inflater.unconsumed_tail
                if not piece and not body:
                    raise InvalidRequest("The body ends before its content encoding does.")
                whole += piece
                if len(whole) > self._limit_bytes:
                    raise TooLarge(self._limit_bytes)
                await asyncio.sleep(0)
        except zlib.error:
            raise InvalidRequest("The body is not in the content encoding that it names.") from None
        if inflater.unused_data:
            raise InvalidRequest("Something follows the body in its content encoding.")
        return bytes(whole)
