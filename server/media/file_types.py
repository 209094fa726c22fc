"""Which kind of file some bytes are, by their first bytes; what a caller says of them is not asked.

Images are of the types that OpenAI takes. Signatures are those of
https://mimesniff.spec.whatwg.org and, for FLAC and AVI, of their formats' specifications.
"""

from __future__ import annotations

from server.media.problems import MediaProblem, Problem
from templates.conversation import MediaKind

_FORMATS = {
    MediaKind.IMAGE: ("png", "jpeg", "gif", "webp"),
    MediaKind.VIDEO: ("mp4", "webm", "avi"),
    MediaKind.AUDIO: ("wav", "mp3", "flac", "ogg"),
}
_MP3_MASK, _MP3_SYNC = 0xE0, 0xE0


def check_type(kind: MediaKind, data: bytes, expected: str | None = None) -> None:
    """Raises MediaProblem unless `data` is a file of the kind (and format, if one is expected)."""
    if not data:
        raise MediaProblem(Problem.EMPTY, f"The {kind} is empty.")
    found = file_type(data)
    if found not in _FORMATS[kind]:
        known = ", ".join(_FORMATS[kind])
        raise MediaProblem(
            Problem.FORMAT, f"The {kind} is of no supported type; these are: {known}."
        )
    if expected is not None and found != expected:
        raise MediaProblem(Problem.FORMAT, f"The {kind} is said to be {expected}, and is {found}.")


def file_type(data: bytes) -> str | None:
    head = data[:16]
    container = (head[:4], head[8:12])
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if container[0] == b"RIFF":
        return {b"WEBP": "webp", b"WAVE": "wav", b"AVI ": "avi"}.get(container[1])
    if head[4:8] == b"ftyp":
        return "mp4"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "webm"
    if head.startswith(b"fLaC"):
        return "flac"
    if head.startswith(b"OggS"):
        return "ogg"
    is_frame = len(head) > 1 and head[0] == 0xFF and head[1] & _MP3_MASK == _MP3_SYNC
    return "mp3" if head.startswith(b"ID3") or is_frame else None
