"""The `settings` of an HF engine's spec."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from workers.engine.rope import RopeScaling


class HfSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kv_cache_bytes: int | None = None
    """Memory for keys and values; None: what all sequences at full length need, but at most a
    quarter of the free memory on CPU and 80% of what the model leaves on CUDA."""
    prefill_tokens_per_step: int | None = None
    """Prompt tokens computed beside the decoding rows in one step: more gives throughput, fewer
    smoother streams. None: 512 on CPU, 4096 on CUDA."""
    prefix_rows: int = 16
    """Finished sequences whose keys and values are kept for prompts that begin alike; 0: none."""
    num_threads: int | None = None
    """CPU threads; None: one for a model that generates with fewer than ten million weights, else
    what torch chooses."""
    adapter_host_bytes: int = 1 << 30
    """Main memory for adapters that are checked and read but not resident."""
    saved_modules_bytes: int = 2 << 30
    """Memory of the model's device for whole weights that resident adapters bring in place of the
    base's embeddings and output layer (`modules_to_save`)."""
    task: Literal["generate", "embed", "score"] | None = None
    """None: what the model's files say; a sentence-transformers directory embeds, a sequence
    classifier or a value head scores, a causal model generates."""
    pooling: Literal["mean", "last", "cls"] | None = None
    """Makes the model embed, beside generating if it does. None: what the model ships."""
    normalize: bool | None = None
    """Whether embeddings have length 1. None: what the model's modules.json says, else yes."""
    is_matryoshka: bool | None = None
    """Whether embeddings may be cut short (`dimensions`). None: what the model's config says."""
    matryoshka_dimensions: list[int] | None = None
    """The only lengths they may be cut to."""
    rope_scaling: RopeScaling | None = None
    """linear, dynamic, yarn or llama3, or a table of transformers' rope parameters."""
    flash_attn: Literal["auto", "disabled", "sdpa", "fa2"] = "auto"
    """Attention of a model that embeds or scores. One that generates has the engine's own, over
    sdpa: it takes auto and sdpa."""
    quantization_bit: Literal[4, 8] | None = None
    quantization_method: Literal["bnb", "hqq", "eetq"] = "bnb"
    quantization_type: Literal["nf4", "fp4"] = "nf4"
    """Of bnb's 4 bits."""
    double_quantization: bool = True
    """Whether bnb's 4 bits have quantized scales too."""
    merged_adapters: str | list[str] | None = None
    """LoRA directories merged into the model in this order; separated by commas if a string."""
    image_max_pixels: int = 768 * 768
    """Pictures with more pixels are made smaller first, as LLaMA-Factory does."""
    image_min_pixels: int = 32 * 32
    """Pictures with fewer pixels are made larger first."""
    video_max_pixels: int = 256 * 256
    video_min_pixels: int = 16 * 16
    """The same, of each frame of a video."""
    video_fps: float = 2.0
    """Frames a second that are taken from a video."""
    video_maxlen: int = 128
    """At most so many frames, spread over all of it."""
    audio_sampling_rate: int = 16_000
    """Samples a second that sounds are brought to; the model's own."""
    media_cache_bytes: int = 256 << 20
    """Memory for what the model's encoders made of media that may come again; 0: none."""
    verify: bool = True
    """Compares our attention with the model's own at start; a model that differs runs in
    compatibility mode."""

    @property
    def adapter_paths(self) -> list[str]:
        given = self.merged_adapters or []
        return [part.strip() for part in given.split(",")] if isinstance(given, str) else given

    def __post_init__(self) -> None:
        if self.quantization_bit is None and (
            self.quantization_method != "bnb"
            or self.quantization_type != "nf4"
            or not self.double_quantization
        ):
            raise ValueError("quantization_method and its like need quantization_bit")
        if self.quantization_bit is not None and self.merged_adapters:
            raise ValueError("adapters cannot be merged into quantized weights")
        for name in ("kv_cache_bytes", "prefill_tokens_per_step", "num_threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1")
        for kind in ("image", "video"):
            least, most = getattr(self, f"{kind}_min_pixels"), getattr(self, f"{kind}_max_pixels")
            if not 1 <= least <= most:
                raise ValueError(f"{kind}_min_pixels must be from 1 to {kind}_max_pixels")
        if not 0 < self.video_fps < math.inf or self.video_maxlen < 1:
            raise ValueError("video_fps must be above 0 and video_maxlen at least 1")
        for name in (
            "prefix_rows",
            "adapter_host_bytes",
            "saved_modules_bytes",
            "media_cache_bytes",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
