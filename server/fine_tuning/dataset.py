"""A job's `dataset`: what the columns of its files mean, in the words of `dataset_info.json`.

As there, columns and tags that are named replace all of the defaults. Unlike there, the formatting
openai has OpenAI's own names by default. The base's files are both of this format.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictStr

from server.errors import missing_parameter, unsupported_parameter
from templates.dataset_format import (
    ALPACA_COLUMNS,
    MESSAGE_COLUMNS,
    OPENAI_TAGS,
    SHAREGPT_TAGS,
    Columns,
    DatasetFormat,
    Formatting,
    Tags,
    ranked,
)

Name = Annotated[StrictStr, Field(min_length=1, max_length=256)]
MaybeName = Annotated[
    Annotated[StrictStr, Field(max_length=256)] | None, AfterValidator(lambda name: name or None)
]
"""An empty one is none, as in LLaMA-Factory."""
_OF_EVERY_ROW = frozenset({"system", "images", "videos", "audios"})


class _Names(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DatasetColumns(_Names):
    prompt: Name | None = None
    query: MaybeName = None
    response: MaybeName = None
    history: MaybeName = None
    messages: Name | None = None
    system: MaybeName = None
    tools: MaybeName = None
    images: MaybeName = None
    videos: MaybeName = None
    audios: MaybeName = None
    chosen: MaybeName = None
    rejected: MaybeName = None
    kto_tag: MaybeName = None


class DatasetTags(_Names):
    role_tag: Name
    content_tag: Name
    user_tag: Name
    assistant_tag: Name
    observation_tag: Name | None = None
    function_tag: Name | None = None
    system_tag: Name | None = None

    def values(self) -> Tags:
        def names(given: str | None) -> tuple[str, ...]:
            return () if given is None else (given,)

        return Tags(
            role=self.role_tag,
            content=self.content_tag,
            user=names(self.user_tag),
            assistant=names(self.assistant_tag),
            observation=names(self.observation_tag),
            function=names(self.function_tag),
            system=names(self.system_tag),
        )


class Dataset(_Names):
    formatting: Formatting = Formatting.ALPACA
    columns: DatasetColumns | None = None
    tags: DatasetTags | None = None
    ranking: StrictBool = False

    parts: ClassVar[dict[str, type[_Names]]] = {"columns": DatasetColumns, "tags": DatasetTags}

    def layout(self) -> DatasetFormat:
        """Raises InvalidRequest for a column that the formatting needs, or does not read."""
        columns = self._columns()
        for name in self._needed():
            if getattr(columns, name) is None:
                raise missing_parameter(f"dataset.columns.{name}")
        self._check_read()
        own = OPENAI_TAGS if self.formatting is Formatting.OPENAI else SHAREGPT_TAGS
        tags = own if self.tags is None else self.tags.values()
        return DatasetFormat(self.formatting, columns, tags, self.ranking)

    def _columns(self) -> Columns:
        if self.columns is not None:
            return Columns(**self.columns.model_dump())
        match self.formatting:
            case Formatting.ALPACA:
                columns = ALPACA_COLUMNS
            case Formatting.SHAREGPT:
                columns = replace(MESSAGE_COLUMNS, messages="conversations")
            case Formatting.OPENAI:
                columns = replace(MESSAGE_COLUMNS, messages="messages")
        return ranked(columns) if self.ranking else columns

    def _check_read(self) -> None:
        """Columns that were named are used."""
        named = {} if self.columns is None else self.columns.model_dump(exclude_none=True)
        read = self._read(has_response="response" in named)
        for name in named:
            if name in read:
                continue
            reason = f"Rows of formatting '{self.formatting}' have no such column."
            if name in ("chosen", "rejected"):
                reason = "It needs 'ranking': true."
            elif self.ranking and name in ("response", "kto_tag"):
                reason = "Rows with 'ranking' have 'chosen' and 'rejected' instead."
            elif self.formatting is Formatting.ALPACA and name in ("tools", "kto_tag"):
                reason = "It needs a 'response'."
            raise unsupported_parameter(f"dataset.columns.{name}", reason)

    def _read(self, *, has_response: bool) -> frozenset[str]:
        read = _OF_EVERY_ROW.union(self._needed())
        if self.formatting is not Formatting.ALPACA:
            return read | ({"tools"} if self.ranking else {"tools", "kto_tag"})
        read |= {"query", "history"}
        if self.ranking:
            return read | {"tools"}
        return read | ({"response", "tools", "kto_tag"} if has_response else set[str]())

    def _needed(self) -> tuple[str, ...]:
        told = "prompt" if self.formatting is Formatting.ALPACA else "messages"
        return (told, "chosen", "rejected") if self.ranking else (told,)


def layout_of(stored: dict[str, Any] | None) -> DatasetFormat | None:
    """Of a job's plan."""
    return None if stored is None else Dataset.model_validate(stored).layout()


def nearest_name(where: str, name: str) -> str | None:
    """What was meant by a name that is not there; `where` is the object that has it."""
    part = Dataset if where == "dataset" else Dataset.parts.get(where.removeprefix("dataset."))
    near = [] if part is None else difflib.get_close_matches(name, part.model_fields, 1)
    return f"Did you mean '{near[0]}'?" if near else None
