"""Whether media give the same logits through our inputs and attention as through the stock model's
own. Run at start, once before our attention is put in and once after."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workers.contract.parts import MediaKind
from workers.engine.hf.attention import SlotAttention
from workers.engine.hf.media.host import HfMedia
from workers.engine.hf.media.reading import Clip, Reading, Sound
from workers.engine.hf.media.sequences import MediaSlice, step_inputs

_SIZE = (64, 48)
_NUM_FRAMES = 4
_NUM_BEFORE, _NUM_AFTER = 5, 4


@dataclass(frozen=True, slots=True)
class _Probe:
    reading: Reading
    ids: list[int]


class MediaProbe:
    """One prompt for each kind of media that the model takes."""

    def __init__(self, model: Any, media: HfMedia) -> None:
        self._model = model
        self._media = media
        vocab_size: int = model.config.get_text_config().vocab_size
        around = [(n * 7 + 1) % vocab_size for n in range(_NUM_BEFORE + _NUM_AFTER)]
        self._probes: list[_Probe] = []
        for kind, token_id in media.family.token_ids.items():
            reading = _read(media, kind)
            row = [token_id] * reading.num_tokens
            ids = [*around[:_NUM_BEFORE], *row, *around[_NUM_BEFORE:]]
            self._probes.append(_Probe(reading, ids))

    @torch.inference_mode()
    def stock(self) -> Tensor:
        return torch.cat([self._stock(probe) for probe in self._probes])

    @torch.inference_mode()
    def ours(self, attention: SlotAttention) -> Tensor:
        return torch.cat([self._ours(probe, attention) for probe in self._probes])

    def _stock(self, probe: _Probe) -> Tensor:
        device = self._model.device
        ids_1T = torch.tensor([probe.ids], device=device)
        inputs = {name: t.to(device) for name, t in probe.reading.tensors.items()}
        inputs |= self._media.family.stock_inputs(ids_1T, probe.reading)
        return self._model(input_ids=ids_1T, use_cache=False, **inputs).logits[0].float()

    def _ours(self, probe: _Probe, attention: SlotAttention) -> Tensor:
        device = self._model.device
        features = self._media.family.encode(self._model, probe.reading)
        keys = array("q", probe.ids)
        media = self._media.place_features(probe.ids, keys, [probe.reading], [features])
        inputs = step_inputs(
            self._model,
            torch.tensor([probe.ids], device=device),
            torch.arange(len(probe.ids), device=device)[None],
            [MediaSlice(media, 0, 0, len(probe.ids))],
        )
        keep = torch.arange(len(probe.ids), device=device)
        attention.probe_blocks = media.blocks
        try:
            return self._media.family.logits(self._model, inputs, keep).float()
        finally:
            attention.probe_blocks = ()


def _read(media: HfMedia, kind: MediaKind) -> Reading:
    from PIL import Image

    picture = Image.linear_gradient("L").resize(_SIZE).convert("RGB")
    if kind is MediaKind.IMAGE:
        return media.family.read_picture(picture)
    if kind is MediaKind.VIDEO:
        frames = [picture.rotate(90 * n) for n in range(_NUM_FRAMES)]
        return media.family.read_clip(Clip(frames, [n / 2 for n in range(_NUM_FRAMES)], 2.0))
    return media.family.read_sound(Sound(np.sin(np.arange(16_000) / 20, dtype=np.float32)))
