"""Videos to frames: sampled as LLaMA-Factory does it, bounded, and refused by their place."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageChops

from workers.contract.messages import FailureKind
from workers.engine.backend import RefusedError
from workers.engine.hf.media import clips
from workers.engine.hf.media.clips import ClipLimits, read_clip
from workers.engine.hf.media.pictures import PixelBounds

from .media_models import clip, frames

WIDE = PixelBounds(1, 1 << 30)


def read(data: bytes, fps: float = 2.0, most: int = 128, bounds: PixelBounds = WIDE) -> Any:
    return read_clip(data, ClipLimits(fps, most, bounds), "messages[0].content[0]")


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and ImageChops.difference(one, other).getbbox() is None


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp4", "mpeg4"), ("mp4", "h264"), ("webm", "libvpx"), ("avi", "mpeg4")],
)
def test_frames_are_spread_from_the_first_to_the_last(container: str, codec: str) -> None:
    data = clip(1, 10, rate=4, container=container, codec=codec)
    shown = frames(data)
    assert len(shown) == 10
    taken = read(data)  # 2.5 seconds, two frames each
    assert [[same(a, b) for b in shown].index(True) for a in taken.frames] == [0, 2, 4, 6, 9]
    assert taken.times_s == pytest.approx([0, 0.5, 1, 1.5, 2.25], abs=0.1)
    assert taken.frames_per_second == pytest.approx(2, abs=0.1)


def test_at_least_one_and_at_most_so_many_frames_are_taken() -> None:
    data = clip(2, 24, rate=8)
    assert len(read(data, fps=0.1).frames) == 1
    few = read(data, fps=100, most=5)
    assert len(few.frames) == 5
    assert few.frames_per_second == pytest.approx(5 / 3)
    assert len(read(data, fps=100).frames) == 24


def test_frames_are_brought_between_the_bounds() -> None:
    data = clip(3, 4, size=(112, 84))
    assert read(data, bounds=PixelBounds(1, 56 * 42)).frames[0].size == (56, 42)
    assert read(data, bounds=PixelBounds(224 * 168, 1 << 20)).frames[0].size == (224, 168)


def test_what_is_no_video_is_refused_by_its_place(tmp_path: Any) -> None:
    good = clip(4, 8)
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(good)
    playlist = f"ffconcat version 1.0\nfile '{secret}'\n".encode()
    disguised = b"\0\0\0\x18ftypmp42" + playlist
    sound = io.BytesIO()
    with av.open(sound, "w", format="mp4") as made:
        stream = made.add_stream("aac", rate=16_000)
        silence = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 16_000
        made.mux(stream.encode(frame))
        made.mux(stream.encode())
    for data in (b"", bytes(1000), good[:60], good[: len(good) // 2], playlist, disguised):
        with pytest.raises(RefusedError) as caught:
            read(data)
        assert caught.value.kind == FailureKind.INVALID_MEDIA
        assert caught.value.param == "messages[0].content[0]"
    with pytest.raises(RefusedError, match="no pictures"):
        read(sound.getvalue())


def test_frames_too_large_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "_MAX_FRAME_PIXELS", 112 * 84 - 1)
    with pytest.raises(RefusedError, match="pixels"):
        read(clip(5, 2, size=(112, 84)))


def test_decoding_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "_MAX_DECODE_S", -1.0)
    with pytest.raises(RefusedError, match="to decode"):
        read(clip(6, 4))
