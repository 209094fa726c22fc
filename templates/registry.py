"""Finds the chat format of a model: a named one, or the model's own Jinja template."""

from __future__ import annotations

from pathlib import Path

from templates.format import ChatFormat, TokenizerInfo


def open_format(
    name: str | None, tokenizer: TokenizerInfo, folders: tuple[Path, ...] = ()
) -> ChatFormat:
    """The format called `name` (built in, or a file of an operator's `folders`); with None, the
    model's own Jinja template. Raises FormatError when there is none."""
    raise NotImplementedError
