"""What named templates write for media is what the models' processors look for, in its marks."""

from __future__ import annotations

import pytest

from templates.conversation import MediaKind
from templates.registry import built_in_families

# Each text is from LLaMA-Factory's plugins or, where those write expanded tokens, from what the
# processors of transformers and vLLM expand.
MARKS = {
    "dots_ocr": {"image": "<|img|><|imgpad|><|endofimg|>"},
    "gemma3": {"image": "<start_of_image>"},
    "glm4_5v": {
        "image": "<|begin_of_image|><|image|><|end_of_image|>",
        "video": "<|begin_of_video|><|video|><|end_of_video|>",
    },
    "intern_vl": {"image": "<IMG_CONTEXT>", "video": "<video>"},
    "keye_vl": {"image": "<|vision_start|><|image_pad|><|vision_end|>"},
    "kimi_vl": {"image": "<|media_start|>image<|media_content|><|media_pad|><|media_end|>"},
    "minicpm_o": {"image": "(<image>./</image>)", "audio": "(<audio>./</audio>)"},
    "qwen2_audio": {"audio": "<|audio_bos|><|AUDIO|><|audio_eos|>"},
    "qwen2_omni": {"image": "<|vision_bos|><|IMAGE|><|vision_eos|>"},
    "qwen3_omni": {"audio": "<|audio_start|><|audio_pad|><|audio_end|>"},
    "youtu_vl": {"image": "<|vision_start|><|image_pad|><|vision_end|>"},
}


@pytest.mark.parametrize("name", MARKS)
def test_media_stand_in_the_marks_that_processors_expand(name: str) -> None:
    media = built_in_families()[name].media
    assert {kind: media[MediaKind(kind)] for kind in MARKS[name]} == MARKS[name]
