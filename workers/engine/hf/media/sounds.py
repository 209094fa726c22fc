"""Bytes of a sound to one channel of samples at the model's rate. Its format is that of its
signature, never guessed; what is longer than the model hears is refused, not cut."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np

from workers.contract.messages import FailureKind
from workers.engine.backend import RefusedError
from workers.engine.hf.media.clips import opened
from workers.engine.hf.media.reading import Sound

_MP3_MASK, _MP3_SYNC = 0xE0, 0xE0


def read_sound(data: bytes, rate: int, max_s: float, param: str) -> Sound:
    """Raises RefusedError."""
    name = _sound_format(data)
    if name is None:
        raise _refused("The audio cannot be decoded.", param)
    with opened(data, name, "audio", param) as container:
        if not container.streams.audio:
            raise _refused("The audio holds no sound.", param)
        samples = _decode(container, rate, int(max_s * rate))
    if len(samples) > max_s * rate:
        raise _refused(f"The audio is longer than the {max_s:g} s that this model hears.", param)
    if not len(samples):
        raise _refused("The audio holds no sound.", param)
    return Sound(samples)


def _decode(container: Any, rate: int, max_samples: int) -> np.ndarray:
    """The channels' mean, as LLaMA-Factory has it. More than `max_samples` where there is more; the
    rest is left."""
    from av.audio.resampler import AudioResampler

    resampler = AudioResampler(format="fltp", rate=rate)
    parts: list[np.ndarray] = []
    num_samples = 0
    for frame in chain(container.decode(audio=0), [None]):
        for made in resampler.resample(frame):
            parts.append(made.to_ndarray().mean(0))
            num_samples += len(parts[-1])
        if num_samples > max_samples:
            break
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _sound_format(data: bytes) -> str | None:
    if data.startswith(b"RIFF") and data[8:12] == b"WAVE":
        return "wav"
    if data.startswith(b"fLaC"):
        return "flac"
    if data.startswith(b"OggS"):
        return "ogg"
    is_frame = len(data) > 1 and data[0] == 0xFF and data[1] & _MP3_MASK == _MP3_SYNC
    return "mp3" if data.startswith(b"ID3") or is_frame else None


def _refused(message: str, param: str) -> RefusedError:
    return RefusedError(FailureKind.INVALID_MEDIA, message, param)
