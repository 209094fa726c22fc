"""How each architecture reads media: one entry of `FAMILIES` per model type of transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workers.engine.hf.media.family import MediaFamily, ModelFiles
from workers.engine.hf.media.picture_families import (
    Gemma3Pictures,
    InternVlPictures,
    LlavaNextPictures,
    PixtralPictures,
    open_llava,
)
from workers.engine.hf.media.qwen import Qwen3VlPictures, QwenMedia
from workers.engine.hf.media.qwen_audio import QwenSounds

FAMILIES: dict[str, Callable[[Any, ModelFiles], MediaFamily]] = {
    "gemma3": Gemma3Pictures,
    "internvl": InternVlPictures,
    "llava": open_llava,
    "llava_next": LlavaNextPictures,
    "mistral3": PixtralPictures,
    "qwen2_audio": QwenSounds,
    "qwen2_vl": QwenMedia,
    "qwen2_5_vl": QwenMedia,
    "qwen3_vl": Qwen3VlPictures,
}
