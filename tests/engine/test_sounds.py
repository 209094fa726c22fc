"""Sounds to samples: one channel at the model's rate, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from workers.contract.messages import FailureKind
from workers.engine.backend import RefusedError
from workers.engine.hf.media.sounds import read_sound

from .media_models import sound, tone

PARAM = "messages[0].content[0]"


def test_a_wave_of_the_models_rate_is_taken_as_it_is() -> None:
    samples = tone(1, 5_000)
    read = read_sound(sound(samples), 16_000, 30, PARAM).samples
    assert read.dtype == np.float32
    assert np.array_equal(read, (samples / 32768).astype(np.float32))


@pytest.mark.parametrize(("name", "codec"), [("mp3", "libmp3lame"), ("flac", "flac")])
def test_other_formats_and_rates_are_resampled(name: str, codec: str) -> None:
    slow = (np.sin(np.arange(16_000) * 0.05) * 8000).astype(np.int16)
    read = read_sound(sound(slow, name, codec), 8_000, 30, PARAM).samples
    assert len(read) == pytest.approx(8_000, abs=1_500)  # MP3 pads its ends
    middle = read[3_000:5_000]
    peaks = np.sum((middle[1:-1] > middle[:-2]) & (middle[1:-1] >= middle[2:]))
    assert peaks == pytest.approx(2_000 * 0.1 / (2 * np.pi), abs=2)


def test_what_cannot_be_heard_is_refused_by_its_place() -> None:
    good = sound(tone(2, 8_000))
    for data in (b"", bytes(100), b"RIFF\x24\0\0\0WAVEfmt ", good[:40]):
        with pytest.raises(RefusedError) as caught:
            read_sound(data, 16_000, 30, PARAM)
        assert (caught.value.kind, caught.value.param) == (FailureKind.INVALID_MEDIA, PARAM)
    with pytest.raises(RefusedError, match=r"longer than the 0\.4 s"):
        read_sound(good, 16_000, 0.4, PARAM)
