"""Bytes of a video to sampled frames, as LLaMA-Factory samples them (`data/mm_plugin.py`,
`_get_video_sample_indices`): `video_fps` a second and at most `video_maxlen`, spread evenly from
the first frame to the last. Containers that do not say how many frames they hold (WebM) are counted
by their packets, where LLaMA-Factory takes the frames at the beginning.

The container's format is that of the file's signature and never guessed, so that no file can name
others (playlists, concatenations). Decoding is bounded in pixels and time.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from workers.contract.messages import FailureKind
from workers.engine.backend import RefusedError
from workers.engine.hf.media.pictures import PixelBounds, fit
from workers.engine.hf.media.reading import Clip

_MAX_FRAME_PIXELS = 36_000_000
"""8K; a file of a few kilobytes may claim any size."""
_MAX_PACKETS = 1_000_000
_MAX_DECODE_S = 60.0


@dataclass(frozen=True, slots=True)
class ClipLimits:
    frames_per_second: float
    max_frames: int
    bounds: PixelBounds


def read_clip(data: bytes, limits: ClipLimits, param: str) -> Clip:
    """Raises RefusedError."""
    name = _container_format(data)
    if name is None:
        raise _refused("The video cannot be decoded.", param)
    with opened(data, name, "video", param) as container:
        if not container.streams.video:
            raise _refused("The video holds no pictures.", param)
        stream = container.streams.video[0]
        _check_size(stream.width, stream.height, param)
        num_frames, duration_s, rate = _measure(container, stream, limits, param)
        wanted = _sample(num_frames, duration_s, limits)
        frames: list[Any] = []
        times_s: list[float] = []
        for index, frame in _decode(container, stream, wanted, param):
            frames.append(fit(frame.to_image(), limits.bounds))
            times_s.append(index / rate)
    if not frames:
        raise _refused("The video holds no pictures.", param)
    size = frames[0].size
    frames = [frame if frame.size == size else frame.resize(size) for frame in frames]
    return Clip(frames, times_s, len(wanted) / duration_s)


@contextmanager
def opened(data: bytes, name: str, kind: str, param: str) -> Generator[Any]:
    """The container, with FFmpeg's errors as refusals. Raises RefusedError."""
    import av
    from av.error import FFmpegError

    try:
        with av.open(io.BytesIO(data), format=name) as container:
            yield container
    except (FFmpegError, ValueError, OverflowError, EOFError):
        raise _refused(f"The {kind} cannot be decoded.", param) from None


def _container_format(data: bytes) -> str | None:
    if data[4:8] == b"ftyp":
        return "mp4"
    if data.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    return "avi" if data.startswith(b"RIFF") and data[8:12] == b"AVI " else None


def _measure(
    container: Any, stream: Any, limits: ClipLimits, param: str
) -> tuple[int, float, float]:
    """How many frames, how long, and how many in a second."""
    num_frames: int = stream.frames
    if not num_frames:
        for packet in container.demux(stream):
            num_frames += packet.size > 0
            if num_frames > _MAX_PACKETS:
                raise _refused("The video has too many frames.", param)
        container.seek(0)
    if stream.duration is not None and stream.time_base is not None:
        duration_s = float(stream.duration * stream.time_base)
    else:
        duration_s = (container.duration or 0) / 1_000_000
    rate = float(stream.average_rate or 0)
    if duration_s <= 0:
        duration_s = num_frames / (rate or limits.frames_per_second)
    return num_frames, duration_s, rate or num_frames / duration_s


def _sample(num_frames: int, duration_s: float, limits: ClipLimits) -> list[int]:
    size = max(1, math.floor(duration_s * limits.frames_per_second))
    size = min(num_frames, limits.max_frames, size)
    return np.linspace(0, num_frames - 1, size).astype(np.int64).tolist()


def _decode(
    container: Any, stream: Any, wanted: list[int], param: str
) -> Iterator[tuple[int, Any]]:
    """The frames at `wanted`, in order; fewer if the file ends early."""
    left = set(wanted)
    deadline = time.monotonic() + _MAX_DECODE_S
    for index, frame in enumerate(container.decode(stream)):
        _check_size(frame.width, frame.height, param)
        if time.monotonic() > deadline:
            raise _refused(f"The video takes more than {_MAX_DECODE_S:g} s to decode.", param)
        if index in left:
            left.remove(index)
            yield index, frame
        if not left:
            return


def _check_size(width: int, height: int, param: str) -> None:
    if width * height > _MAX_FRAME_PIXELS:
        raise _refused(f"The video's frames have more than {_MAX_FRAME_PIXELS} pixels.", param)


def _refused(message: str, param: str) -> RefusedError:
    return RefusedError(FailureKind.INVALID_MEDIA, message, param)
