"""A model directory's own chat templates and tokens, read without its tokenizer.

Templates are where transformers looks for them: `chat_template.jinja`, those by name in
`additional_chat_templates/`, else `chat_template` in `tokenizer_config.json` (a text, or a list of
`{name, template}`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import msgspec

from templates.control_words import acts_as_control
from templates.format import TokenizerInfo


def read_own_tokenizer(folder: Path) -> TokenizerInfo:
    """What a chat format must know of the model's tokenizer, as far as its files tell."""
    return TokenizerInfo(
        bos_token=_named_token(folder, "bos_token"),
        eos_token=_named_token(folder, "eos_token"),
        special_tokens=_control_words(folder / "tokenizer.json"),
        chat_templates=read_own_templates(folder),
    )


def read_own_templates(folder: Path) -> dict[str, str]:
    """By name; empty where there is none that can be read."""
    try:
        templates = _configured(folder / "tokenizer_config.json")
        main = folder / "chat_template.jinja"
        if main.is_file():
            templates = {"default": main.read_text(encoding="utf-8")}
        for file in sorted((folder / "additional_chat_templates").glob("*.jinja")):
            templates[file.stem] = file.read_text(encoding="utf-8")
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return templates


def _configured(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    own: Any = json.loads(file.read_bytes()).get("chat_template")
    if isinstance(own, str):
        return {"default": own}
    return {entry["name"]: entry["template"] for entry in cast(list[dict[str, str]], own or [])}


def _named_token(folder: Path, name: str) -> str | None:
    """A text, or an object with one, as transformers writes either."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        try:
            token: Any = json.loads((folder / file).read_bytes()).get(name)
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(token, dict):
            token = cast(dict[str, Any], token).get("content")
        if isinstance(token, str):
            return token
    return None


class _AddedToken(msgspec.Struct):
    content: str
    special: bool = False


class _Vocabulary(msgspec.Struct):
    unk_token: str | None = None
    unk_id: int | None = None
    vocab: msgspec.Raw = msgspec.Raw(b"[]")


class _TokenizerFile(msgspec.Struct):
    """The few of a large file's fields that are needed; the others are skipped unread."""

    model: _Vocabulary
    added_tokens: list[_AddedToken] = []


def _control_words(file: Path) -> frozenset[str]:
    try:
        content = msgspec.json.decode(file.read_bytes(), type=_TokenizerFile)
        unknown = content.model.unk_token
        if content.model.unk_id is not None:
            pieces = msgspec.json.decode(content.model.vocab, type=list[tuple[str, float]])
            unknown = pieces[content.model.unk_id][0]
    except (OSError, msgspec.MsgspecError, IndexError):
        return frozenset()
    return frozenset(
        token.content
        for token in content.added_tokens
        if acts_as_control(token.content, token.special, unknown)
    )
