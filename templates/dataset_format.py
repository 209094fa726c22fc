"""What the columns of a data set mean: LLaMA-Factory's `dataset_info` in our own values.

A column or tag that is None is not there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

LABELS = ("label", "kto_tag")
"""Columns that say whether a row's answer is wanted."""
WORDS_OF_VERDICTS = {"true": True, "false": False}
VERDICTS = {**WORDS_OF_VERDICTS, "1": True, "0": False, "1.0": True, "0.0": False}
"""What such a column says, by the lower-case text of its value; numbers are of tables that know no
booleans."""


class Formatting(StrEnum):
    ALPACA = "alpaca"
    SHAREGPT = "sharegpt"
    OPENAI = "openai"


@dataclass(frozen=True, slots=True)
class Columns:
    prompt: str | None = None
    query: str | None = None
    response: str | None = None
    history: str | None = None
    messages: str | None = None
    system: str | None = None
    tools: str | None = None
    images: str | None = None
    videos: str | None = None
    audios: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    kto_tag: str | None = None


ALPACA_COLUMNS = Columns(
    prompt="instruction",
    query="input",
    response="output",
    history="history",
    system="system",
    tools="tools",
    images="images",
    videos="videos",
    audios="audios",
)
MESSAGE_COLUMNS = Columns(
    system="system", tools="tools", images="images", videos="videos", audios="audios"
)
"""Beside the messages' own."""


def ranked(columns: Columns) -> Columns:
    return replace(columns, response=None, chosen="chosen", rejected="rejected")


@dataclass(frozen=True, slots=True)
class Tags:
    """Names within a message; of a role there may be several."""

    role: str
    content: str
    user: tuple[str, ...]
    assistant: tuple[str, ...]
    observation: tuple[str, ...] = ()
    function: tuple[str, ...] = ()
    system: tuple[str, ...] = ()


OPENAI_TAGS = Tags(
    role="role",
    content="content",
    user=("user",),
    assistant=("assistant",),
    observation=("tool",),
    system=("system",),
)
SHAREGPT_TAGS = Tags(
    role="from",
    content="value",
    user=("human", "user"),
    assistant=("gpt", "assistant"),
    observation=("observation", "tool", "function_response"),
    function=("function_call", "tool_call"),
    system=("system",),
)


@dataclass(frozen=True, slots=True)
class DatasetFormat:
    formatting: Formatting
    columns: Columns
    tags: Tags = field(default=SHAREGPT_TAGS)
    """Of messages; alpaca has none."""
    ranking: bool = False
    """Whether a row has a chosen and a rejected answer."""
