"""Qwen2-Audio: sounds of up to half a minute, heard as Whisper's encoder hears them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_bidirectional_mask

from workers.contract.parts import MediaKind
from workers.engine.hf.media.family import ModelFiles, PlainFamily, decoder_logits, on_device
from workers.engine.hf.media.reading import Features, Reading, Sound
from workers.engine.spec import SpecError


class QwenSounds(PlainFamily):
    def __init__(self, model: Any, files: ModelFiles) -> None:
        from transformers import AutoFeatureExtractor

        token_id: int = model.config.audio_token_id
        self._word = files.word(token_id)
        super().__init__(self._word, token_id, MediaKind.AUDIO)
        try:
            self._extractor: Any = AutoFeatureExtractor.from_pretrained(files.path)
        except (OSError, ValueError, ImportError) as error:
            raise SpecError(f"the model's feature extractor cannot be read: {error}") from error
        self.sound_rate = self._extractor.sampling_rate
        self.max_sound_s = self._extractor.n_samples / self.sound_rate

    def read_sound(self, sound: Sound) -> Reading:
        read = self._extractor(
            [sound.samples],
            sampling_rate=self.sound_rate,
            return_attention_mask=True,
            padding="max_length",
            return_tensors="pt",
        )
        tensors = {
            "input_features": read["input_features"],
            "feature_attention_mask": read["attention_mask"],
        }
        # Halved by the second convolution, and again by pooling.
        size = ((int(read["attention_mask"].sum()) - 1) // 2 + 1 - 2) // 2 + 1
        return Reading(MediaKind.AUDIO, tensors, self._word * size, size)

    def encode(self, model: Any, reading: Reading) -> Features:
        """As `Qwen2AudioModel.forward` does it, which has no method for it."""
        tensors = on_device(model, reading.tensors)
        heard = tensors["input_features"]
        tower = model.model.audio_tower
        lengths = tower._get_feat_extract_output_lengths(tensors["feature_attention_mask"].sum(-1))
        places_1T = torch.arange((heard.shape[-1] - 2) // 2 + 1, device=heard.device)[None]
        mask = create_bidirectional_mask(
            config=tower.config,
            inputs_embeds=heard.new_zeros((1, places_1T.shape[1], 1)),
            attention_mask=(places_1T < lengths[0][:, None]).long(),
        )
        states = tower(heard, attention_mask=mask).last_hidden_state
        embeddings_TD = model.model.multi_modal_projector(states)[0, : int(lengths[1])]
        return Features(embeddings_TD)

    def logits(self, model: Any, inputs: dict[str, Any], keep: Any) -> Tensor:
        return decoder_logits(model, inputs, keep)
