"""Tiny random models of every family that takes media, and what transformers makes of prompts for
them. Where its own processor cannot be opened without torchvision (Qwen's, Pixtral's, InternVL's),
its expansion of the prompt is written out here."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoModelForMultimodalLM,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3Processor,
    Gemma3TextConfig,
    InternVLConfig,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaNextProcessor,
    LlavaProcessor,
    Mistral3Config,
    MistralConfig,
    PixtralVisionConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2AudioConfig,
    Qwen2AudioProcessor,
    Qwen2VLConfig,
    Qwen3VLConfig,
    SiglipVisionConfig,
    WhisperFeatureExtractor,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from . import models

Inputs = dict[str, Any]
TEXT: dict[str, Any] = {
    "vocab_size": 448,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "pad_token_id": None,
}
_MEAN = [0.48145466, 0.4578275, 0.40821073]
_STD = [0.26862954, 0.26130258, 0.27577711]
"""OpenAI's CLIP."""


_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "MARKS{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Asked:
    """A prompt, with `<image>`, `<video>` and `<audio>` where its media are."""

    text: str
    pictures: Sequence[Image.Image] = ()
    clips: Sequence[tuple[Sequence[Image.Image], float]] = ()
    """Sampled frames, and how many there are in a second."""
    sounds: Sequence[np.ndarray] = ()


@dataclass(frozen=True)
class Kind:
    words: list[str]
    """Added to the tokenizer."""
    marks: dict[str, str]
    """What the chat format writes for `<image>`, `<video>`, `<audio>`."""
    config: Callable[[dict[str, int], dict[str, Any]], Any]
    """Of the ids of `words`, and the sizes of the decoder."""
    processor: Callable[[], Any]
    inputs: Callable[[Kind, PreTrainedTokenizerFast, Asked], Inputs]
    """As transformers' processor makes them."""

    def tokenizer(self) -> PreTrainedTokenizerFast:
        made = copy.deepcopy(models.tokenizer())
        made.add_special_tokens({"additional_special_tokens": self.words})
        written = "".join(
            f"{{% elif part['type'] == '{name.strip('<>')}' %}}{mark}"
            for name, mark in self.marks.items()
        )
        made.chat_template = _TEMPLATE.replace("MARKS", written)
        return made

    def write(self, text: str) -> str:
        for name, mark in self.marks.items():
            text = text.replace(name, mark)
        return text


def make_model(folder: Path, name: str) -> Path:
    torch.manual_seed(11)
    kind = KINDS[name]
    words = kind.tokenizer()
    ids = {word: words.convert_tokens_to_ids(word) for word in kind.words}
    config = kind.config(ids, {**TEXT, "eos_token_id": words.eos_token_id})
    model = AutoModelForMultimodalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter, weight in model.named_parameters():
            if "language_model" not in parameter and "lm_head" not in parameter:
                weight.add_(torch.randn_like(weight) * 0.05)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    kind.processor().save_pretrained(folder)
    return folder


def load(folder: Path) -> Any:
    return AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32).eval()


def greedy(model: Any, inputs: Inputs, num_tokens: int) -> list[int]:
    out = model.generate(
        **inputs,
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return out[0, inputs["input_ids"].shape[1] :].tolist()


def picture(seed: int, width: int = 112, height: int = 84) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (6, 8, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy()).resize((width, height))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def clip(
    seed: int,
    num_frames: int,
    *,
    rate: int = 4,
    size: tuple[int, int] = (112, 84),
    container: str = "mp4",
    codec: str = "mpeg4",
) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as made:
        stream = made.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(num_frames):
            image = picture(1000 * seed + number, *size)
            made.mux(stream.encode(av.VideoFrame.from_image(image)))
        made.mux(stream.encode())
    return file.getvalue()


def tone(seed: int, num_samples: int) -> np.ndarray:
    """16 bits, 16,000 a second."""
    generator = np.random.default_rng(seed)
    wave = np.sin(np.arange(num_samples) * generator.uniform(0.02, 0.5)) * 8000
    return (wave + generator.normal(0, 500, num_samples)).astype(np.int16)


def sound(samples: np.ndarray, name: str = "wav", codec: str = "pcm_s16le") -> bytes:
    """`samples` as both of two channels."""
    file = io.BytesIO()
    with av.open(file, "w", format=name) as made:
        stream = made.add_stream(codec, rate=16_000, layout="stereo")
        both = np.stack([samples, samples], 1).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(both, format="s16", layout="stereo")
        frame.sample_rate = 16_000
        frame.pts = 0
        made.mux(stream.encode(frame))
        made.mux(stream.encode())
    return file.getvalue()


def frames(data: bytes) -> list[Image.Image]:
    """All of a clip's, as its decoder gives them."""
    with av.open(io.BytesIO(data)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


# --- what transformers makes of prompts ----------------------------------------------------------


def _encoded(words: PreTrainedTokenizerFast, text: str, inputs: Inputs) -> Inputs:
    ids = torch.tensor([words.encode(text)])
    return {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _expanded(text: str, word: str, rows: Sequence[str]) -> str:
    for row in rows:
        text = text.replace(word, row.replace(word, "\0"), 1)
    return text.replace("\0", word)


def _qwen_inputs(kind: Kind, words: PreTrainedTokenizerFast, asked: Asked) -> Inputs:
    """`Qwen2_5_VLProcessor` and `Qwen2VLVideoProcessor`, of frames that need no resizing."""
    inputs: Inputs = {}
    text = kind.write(asked.text)
    if asked.pictures:
        read = kind.processor()(list(asked.pictures), return_tensors="pt")
        inputs = {name: read[name] for name in ("pixel_values", "image_grid_thw")}
        rows = ["<|image_pad|>" * (int(grid.prod()) // 4) for grid in read["image_grid_thw"]]
        text = _expanded(text, "<|image_pad|>", rows)
    if asked.clips:
        read = [_qwen_clip(shown) for shown, _ in asked.clips]
        inputs["pixel_values_videos"] = torch.cat([values for values, _ in read])
        grids = inputs["video_grid_thw"] = torch.tensor([grid for _, grid in read])
        rows = ["<|video_pad|>" * (int(grid.prod()) // 4) for grid in grids]
        text = _expanded(text, "<|video_pad|>", rows)
        if kind is KINDS["qwen2_5_vl"]:
            inputs["second_per_grid_ts"] = [2 / rate for _, rate in asked.clips]
    made = _encoded(words, text, inputs)
    if inputs:
        image, video = words.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
        ids = made["input_ids"]
        made["mm_token_type_ids"] = (ids == image).int() + 2 * (ids == video).int()
    return made


def _qwen_clip(shown: Sequence[Image.Image]) -> tuple[torch.Tensor, list[int]]:
    """`Qwen2VLVideoProcessor.patchify`, after rescaling and normalising."""
    values = torch.stack([torch.tensor(np.array(frame)).permute(2, 0, 1) for frame in shown])
    values = (values / 255 - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_STD)[:, None, None]
    if len(values) % 2:
        values = torch.cat([values, values[-1:]])
    steps, height, width = len(values) // 2, values.shape[2] // 14, values.shape[3] // 14
    patches = values.view(steps, 2, 3, height // 2, 2, 14, width // 2, 2, 14)
    patches = patches.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return patches.reshape(steps * height * width, -1).float(), [steps, height, width]


def _llava_inputs(
    processor_type: Any, kind: Kind, words: PreTrainedTokenizerFast, asked: Asked
) -> Inputs:
    processor = processor_type(
        kind.processor(),
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    images = list(asked.pictures) or None
    return dict(processor(text=kind.write(asked.text), images=images, return_tensors="pt"))


def _pixtral_inputs(kind: Kind, words: PreTrainedTokenizerFast, asked: Asked) -> Inputs:
    cell = 28 if kind is KINDS["mistral3"] else 14
    text, inputs = kind.write(asked.text), {}
    if asked.pictures:
        read = kind.processor()(list(asked.pictures), patch_size=cell, return_tensors="pt")
        inputs = {name: read[name] for name in ("pixel_values", "image_sizes")}
        rows: list[str] = []
        for height, width in inputs["image_sizes"]:
            row = "[IMG]" * (int(width) // cell) + "[IMG_BREAK]"
            rows.append((row * (int(height) // cell)).removesuffix("[IMG_BREAK]") + "[IMG_END]")
        text = _expanded(text, "[IMG]", rows)
        inputs["image_sizes"] = torch.as_tensor(inputs["image_sizes"])
    return _encoded(words, text, inputs)


def _gemma3_inputs(kind: Kind, words: PreTrainedTokenizerFast, asked: Asked) -> Inputs:
    for name, word in (("boi", "<start_of_image>"), ("eoi", "<end_of_image>"), ("image", "<soft>")):
        setattr(words, f"{name}_token", word)
        setattr(words, f"{name}_token_id", words.convert_tokens_to_ids(word))
    processor = Gemma3Processor(kind.processor(), words, image_seq_length=16)
    images = list(asked.pictures) or None
    return dict(processor(text=kind.write(asked.text), images=images, return_tensors="pt"))


def _internvl_inputs(kind: Kind, words: PreTrainedTokenizerFast, asked: Asked) -> Inputs:
    text, inputs = kind.write(asked.text), {}
    if asked.pictures:
        read = kind.processor()(list(asked.pictures), crop_to_patches=True, return_tensors="pt")
        inputs = {"pixel_values": read["pixel_values"]}
        rows = [f"<img>{'<IMG_CONTEXT>' * (4 * int(n))}</img>" for n in read["num_patches"]]
        text = _expanded(text, "<IMG_CONTEXT>", rows)
    return _encoded(words, text, inputs)


def _qwen2_audio_inputs(kind: Kind, words: PreTrainedTokenizerFast, asked: Asked) -> Inputs:
    processor = Qwen2AudioProcessor(kind.processor(), words)
    text = kind.write(asked.text)
    if not asked.sounds:
        return _encoded(words, text, {})
    sounds = list(asked.sounds)
    return dict(processor(text=[text], audio=sounds, sampling_rate=16_000, return_tensors="pt"))


# --- configurations ------------------------------------------------------------------------------

_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
_QWEN_WORDS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
_QWEN_MARKS = {
    "<image>": "<|vision_start|><|image_pad|><|vision_end|>",
    "<video>": "<|vision_start|><|video_pad|><|vision_end|>",
}
_PIXTRAL_WORDS = ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]


def _qwen_ids(ids: dict[str, int]) -> dict[str, int]:
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


def _rope(**more: Any) -> dict[str, Any]:
    sections = {"mrope_section": [4, 6, 6]}
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, **sections, **more}}


def _qwen2_vl(ids: dict[str, int], text: dict[str, Any]) -> Any:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2}
    vision["initializer_range"] = 0.2
    return Qwen2VLConfig(text_config={**text, **_rope()}, vision_config=vision, **_qwen_ids(ids))


def _qwen2_5_vl(ids: dict[str, int], text: dict[str, Any]) -> Any:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1],
        "initializer_range": 0.2,
        "tokens_per_second": 4,
    }
    return Qwen2_5_VLConfig(text_config={**text, **_rope()}, vision_config=vision, **_qwen_ids(ids))


def _qwen3_vl(ids: dict[str, int], text: dict[str, Any]) -> Any:
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 64,
        "patch_size": 14,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
        "initializer_range": 0.2,
    }
    del text["bos_token_id"]
    decoder = {**text, "head_dim": 32, **_rope(mrope_interleaved=True)}
    return Qwen3VLConfig(text_config=decoder, vision_config=vision, **_qwen_ids(ids))


def _llava(ids: dict[str, int], text: dict[str, Any]) -> Any:
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**_VISION, image_size=56, patch_size=14),
        text_config=LlamaConfig(**text),
        image_token_index=ids["<image>"],
    )


def _llava_next(ids: dict[str, int], text: dict[str, Any]) -> Any:
    return LlavaNextConfig(
        vision_config=CLIPVisionConfig(**_VISION, image_size=56, patch_size=14),
        text_config=LlamaConfig(**text),
        image_token_index=ids["<image>"],
        image_grid_pinpoints=_PINPOINTS,
    )


def _pixtral(ids: dict[str, int], text: dict[str, Any]) -> Any:
    return LlavaConfig(
        vision_config=PixtralVisionConfig(**_VISION, image_size=224, patch_size=14, head_dim=16),
        text_config=LlamaConfig(**text),
        image_token_index=ids["[IMG]"],
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )


def _mistral3(ids: dict[str, int], text: dict[str, Any]) -> Any:
    return Mistral3Config(
        vision_config=PixtralVisionConfig(**_VISION, image_size=224, patch_size=14, head_dim=16),
        text_config=MistralConfig(**text, sliding_window=None),
        image_token_index=ids["[IMG]"],
        spatial_merge_size=2,
    )


def _gemma3(ids: dict[str, int], text: dict[str, Any]) -> Any:
    decoder = {"head_dim": 32, "sliding_window": 8, "layer_types": _GEMMA_LAYERS}
    return Gemma3Config(
        vision_config=SiglipVisionConfig(**_VISION, image_size=56, patch_size=14),
        text_config=Gemma3TextConfig(**text, **decoder),
        mm_tokens_per_image=16,
        tie_word_embeddings=False,
        boi_token_index=ids["<start_of_image>"],
        eoi_token_index=ids["<end_of_image>"],
        image_token_index=ids["<soft>"],
    )


_GEMMA_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]


def _internvl(ids: dict[str, int], text: dict[str, Any]) -> Any:
    return InternVLConfig(
        vision_config=InternVLVisionConfig(**_VISION, image_size=56, patch_size=14),
        text_config=LlamaConfig(**text),
        image_token_id=ids["<IMG_CONTEXT>"],
        image_seq_length=4,
    )


def _qwen2_audio(ids: dict[str, int], text: dict[str, Any]) -> Any:
    audio = {
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "num_mel_bins": 16,
        "max_source_positions": 100,
    }
    return Qwen2AudioConfig(
        audio_config=audio,
        text_config={"model_type": "qwen2", **text},
        audio_token_index=ids["<|AUDIO|>"],
    )


_PINPOINTS = [[56, 112], [112, 56], [112, 112]]


def _clip_sizes(kind: Any, **more: Any) -> Any:
    size = {"height": 56, "width": 56}
    return kind(size={"shortest_edge": 56}, crop_size=size, **more)


def _pixtral_processor() -> Any:
    return PixtralImageProcessorPil(size={"longest_edge": 224}, patch_size=14)


KINDS: dict[str, Kind] = {
    "qwen2_vl": Kind(_QWEN_WORDS, _QWEN_MARKS, _qwen2_vl, Qwen2VLImageProcessorPil, _qwen_inputs),
    "qwen2_5_vl": Kind(
        _QWEN_WORDS, _QWEN_MARKS, _qwen2_5_vl, Qwen2VLImageProcessorPil, _qwen_inputs
    ),
    "qwen3_vl": Kind(
        _QWEN_WORDS,
        {"<image>": _QWEN_MARKS["<image>"]},
        _qwen3_vl,
        Qwen2VLImageProcessorPil,
        _qwen_inputs,
    ),
    "llava": Kind(
        ["<image>"],
        {"<image>": "<image>"},
        _llava,
        lambda: _clip_sizes(LlavaImageProcessorPil),
        partial(_llava_inputs, LlavaProcessor),
    ),
    "llava_next": Kind(
        ["<image>"],
        {"<image>": "<image>"},
        _llava_next,
        lambda: _clip_sizes(LlavaNextImageProcessorPil, image_grid_pinpoints=_PINPOINTS),
        partial(_llava_inputs, LlavaNextProcessor),
    ),
    "pixtral": Kind(
        _PIXTRAL_WORDS, {"<image>": "[IMG]"}, _pixtral, _pixtral_processor, _pixtral_inputs
    ),
    "mistral3": Kind(
        _PIXTRAL_WORDS, {"<image>": "[IMG]"}, _mistral3, _pixtral_processor, _pixtral_inputs
    ),
    "gemma3": Kind(
        ["<start_of_image>", "<end_of_image>", "<soft>"],
        {"<image>": "<start_of_image>"},
        _gemma3,
        lambda: Gemma3ImageProcessorPil(size={"height": 56, "width": 56}),
        _gemma3_inputs,
    ),
    "internvl": Kind(
        ["<img>", "</img>", "<IMG_CONTEXT>"],
        {"<image>": "<IMG_CONTEXT>"},
        _internvl,
        lambda: GotOcr2ImageProcessorPil(size={"height": 56, "width": 56}, max_patches=4),
        _internvl_inputs,
    ),
    "qwen2_audio": Kind(
        ["<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>"],
        {"<audio>": "<|audio_bos|><|AUDIO|><|audio_eos|>"},
        _qwen2_audio,
        lambda: WhisperFeatureExtractor(feature_size=16, chunk_length=2),
        _qwen2_audio_inputs,
    ),
}
