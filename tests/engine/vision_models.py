"""Tiny random models that see, with real architectures and real image processors."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from . import models

_TEXT: dict[str, Any] = {
    "vocab_size": 448,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "pad_token_id": None,
}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}MARK"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKS = {"qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>", "llava": "<image>"}
_WORDS = {
    "qwen2_5_vl": ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
    "llava": ["<image>"],
}
PLACEHOLDERS = {"qwen2_5_vl": "<|image_pad|>", "llava": "<image>"}


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    made = copy.deepcopy(models.tokenizer())
    made.add_special_tokens({"additional_special_tokens": _WORDS[kind]})
    made.chat_template = TEMPLATE.replace("MARK", MARKS[kind])
    return made


def make_model(folder: Path, kind: str) -> Path:
    torch.manual_seed(11)
    words = tokenizer(kind)
    _ids = words.convert_tokens_to_ids
    text = {**_TEXT, "eos_token_id": words.eos_token_id}
    if kind == "qwen2_5_vl":
        rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e4}
        config: Any = Qwen2_5_VLConfig(
            text_config={**text, "rope_parameters": rope},
            vision_config={
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_heads": 2,
                "out_hidden_size": 64,
                "fullatt_block_indexes": [1],
                "initializer_range": 0.2,
            },
            image_token_id=_ids("<|image_pad|>"),
            video_token_id=_ids("<|video_pad|>"),
            vision_start_token_id=_ids("<|vision_start|>"),
            vision_end_token_id=_ids("<|vision_end|>"),
        )
        processor: Any = Qwen2VLImageProcessorPil()
    else:
        vision = CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=70,
            patch_size=14,
        )
        config = LlavaConfig(
            vision_config=vision,
            text_config=LlamaConfig(**text),
            image_token_index=_ids("<image>"),
        )
        size = {"height": 70, "width": 70}
        processor = LlavaImageProcessorPil(size={"shortest_edge": 70}, crop_size=size)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "vision" in name or "visual" in name or "projector" in name:
                weight.add_(torch.randn_like(weight) * 0.05)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def load(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def picture(seed: int, width: int = 112, height: int = 84) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (6, 8, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy()).resize((width, height))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def processed(folder: Path, kind: str, text: str, pictures: list[Image.Image]) -> dict[str, Any]:
    """What transformers' own processor makes of a prompt; Qwen's needs torchvision for its video
    side, so its expansion is written out."""
    words = tokenizer(kind)
    if kind == "llava":
        made = LlavaProcessor(
            LlavaImageProcessorPil.from_pretrained(folder),
            words,
            patch_size=14,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )
        return dict(made(text=text, images=pictures or None, return_tensors="pt"))
    inputs: dict[str, Any] = {}
    if pictures:
        read = Qwen2VLImageProcessorPil.from_pretrained(folder)(pictures, return_tensors="pt")
        inputs = {name: read[name] for name in ("pixel_values", "image_grid_thw")}
        for grid in inputs["image_grid_thw"]:
            row = "<|placeholder|>" * (int(grid.prod()) // 4)
            text = text.replace("<|image_pad|>", row, 1)
        text = text.replace("<|placeholder|>", "<|image_pad|>")
    ids = torch.tensor([words.encode(text)])
    kinds = (ids == words.convert_tokens_to_ids("<|image_pad|>")).int()
    if pictures:
        inputs["mm_token_type_ids"] = kinds
    return {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}


def greedy(model: Any, inputs: dict[str, Any], num_tokens: int) -> list[int]:
    out = model.generate(
        **inputs,
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return out[0, inputs["input_ids"].shape[1] :].tolist()
