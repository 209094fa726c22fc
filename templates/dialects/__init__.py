"""Tool-call dialects: how each model family shows tools, writes calls, and is read back.

`base` says what a dialect is, `scanning` how outputs are read, `constraints` how they are bound.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from templates.conversation import Tool
from templates.dialects import detection
from templates.dialects.base import Dialect
from templates.dialects.gemma4 import FUNCTION_GEMMA, GEMMA4
from templates.dialects.glm import GLM4, GLM4_MOE
from templates.dialects.harmony import HARMONY
from templates.dialects.headed import DEEPSEEK_V3, DEEPSEEK_V3_1, KIMI_K2
from templates.dialects.hermes import LING, QWEN
from templates.dialects.llama import LLAMA3
from templates.dialects.mistral import MISTRAL, MISTRAL_IDS, MISTRAL_V11
from templates.dialects.object_lists import (
    COHERE,
    GRANITE3,
    HUNYUAN,
    INTERNLM,
    MINIMAX1,
    NEMOTRON,
    PHI4,
)
from templates.dialects.pythonic import GEMMA3, LFM2, LLAMA_PYTHONIC, OLMO3
from templates.dialects.react import DEFAULT
from templates.dialects.xml_families import DEEPSEEK_V3_2, DEEPSEEK_V4, MINIMAX2, QWEN3_5, SEED_OSS
from templates.format import FormatError, Prompt

__all__ = ["DIALECTS", "Dialect", "binding_dialect", "detect", "dialect", "marked_in"]

_ALL: tuple[Dialect, ...] = (
    QWEN,
    QWEN3_5,
    GLM4_MOE,
    MINIMAX2,
    SEED_OSS,
    DEEPSEEK_V3_2,
    DEEPSEEK_V4,
    DEEPSEEK_V3_1,
    DEEPSEEK_V3,
    KIMI_K2,
    HARMONY,
    GEMMA4,
    FUNCTION_GEMMA,
    LFM2,
    OLMO3,
    GEMMA3,
    MINIMAX1,
    HUNYUAN,
    NEMOTRON,
    GRANITE3,
    PHI4,
    INTERNLM,
    COHERE,
    MISTRAL_V11,
    MISTRAL,
    MISTRAL_IDS,
    LLAMA3,
    LLAMA_PYTHONIC,
    GLM4,
    LING,
    DEFAULT,
)

DIALECTS: dict[str, Dialect] = {entry.name: entry for entry in _ALL}


def dialect(name: str) -> Dialect:
    found = DIALECTS.get(name)
    if found is None:
        raise FormatError(f"There is no tool-call dialect named '{name}'.")
    return found


def binding_dialect(reader: Dialect, prompt: Prompt, tools: tuple[Tool, ...]) -> Dialect:
    """Whose grammars bind the output after `prompt`: the reader's, but no channel is left to open
    where the prompt is already past the thought, in the answer's channel."""
    in_answer = reader.reads_reasoning and prompt.thought_over and not tools
    return DEFAULT if in_answer else reader


def detect(rendered_call: str, name: str, arguments: dict[str, Any]) -> Dialect | None:
    """The dialect whose parser reads back a call that a template rendered; None if none does."""
    return detection.detect(_ALL, rendered_call, name, arguments)


def marked_in(words: Container[str]) -> Dialect | None:
    """The dialect whose opening mark stands in a text, or among a vocabulary's words."""
    marked = (entry for entry in _ALL if entry.layout.trigger)
    return next((entry for entry in marked if entry.layout.trigger in words), None)
