"""Rows of other trainers, written as the rows that `templates.examples` and its neighbours read.

A conversation becomes `messages`, two answers to one prompt become `input` with `preferred_output`
and `non_preferred_output`, a verdict on an answer becomes `label`, and a document becomes `text`.
What a message or a tool may be is left to the reader. Errors name the column, never its text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

from templates.dataset_format import VERDICTS, DatasetFormat, Formatting, Tags
from templates.example_fields import (
    ExampleError,
    JsonObject,
    object_of,
    parse_json,
    read_at,
    shown_name,
)

MEDIA_COLUMNS = ("images", "videos", "audios")
_OPENAI_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


def used_columns(dataset: DatasetFormat) -> frozenset[str]:
    return frozenset(dataclasses.astuple(dataset.columns)) - {None}


def canonical_row(row: JsonObject, dataset: DatasetFormat) -> JsonObject:
    """Raises ExampleError."""
    if dataset.formatting is Formatting.ALPACA:
        made = _alpaca(row, dataset)
    else:
        made = _conversation(row, dataset)
    for kind in MEDIA_COLUMNS:
        name = getattr(dataset.columns, kind)
        if name is not None and row.get(name):
            made[kind] = row[name]
    return made


def _alpaca(row: JsonObject, dataset: DatasetFormat) -> JsonObject:
    columns = dataset.columns
    asked = [_text(row, name) for name in (columns.prompt, columns.query)]
    prompt = "\n".join(text for text in asked if text)
    if not prompt:
        raise ExampleError(f"the column '{_shown(columns.prompt)}' is empty")
    told = [*_system(row, columns.system), *_history(row, columns.history), _user(prompt)]
    if dataset.ranking:
        sides = [_answers(row, name, dataset) for name in (columns.chosen, columns.rejected)]
        return _preference(told, sides, _tools(row, columns.tools))
    if columns.response is None:
        if len(told) > 1:
            raise ExampleError("a document has no system message and no history")
        return {"text": prompt}
    answer = _assistant(_required_text(row, columns.response))
    return _chat([*told, answer], row, dataset)


def _conversation(row: JsonObject, dataset: DatasetFormat) -> JsonObject:
    columns = dataset.columns
    tools = _tools(row, columns.tools)
    if columns.messages is None:
        told, sides = _common_start([_answers(row, n, dataset) for n in _answer_names(dataset)])
        return _preference([*_system(row, columns.system), *told], sides, tools)
    told = _messages(row, columns.messages, dataset)
    if not told or told[0].get("role") != "system":
        told = [*_system(row, columns.system), *told]
    if dataset.ranking:
        return _preference(told, [_answers(row, n, dataset) for n in _answer_names(dataset)], tools)
    return _chat(told, row, dataset)


def _answer_names(dataset: DatasetFormat) -> tuple[str | None, str | None]:
    return dataset.columns.chosen, dataset.columns.rejected


def _chat(messages: list[JsonObject], row: JsonObject, dataset: DatasetFormat) -> JsonObject:
    made: JsonObject = {"messages": messages, **_tools(row, dataset.columns.tools)}
    if dataset.columns.kto_tag is not None:
        made["label"] = _verdict(row, dataset.columns.kto_tag)
    return made


def _preference(
    told: list[JsonObject], sides: Sequence[list[JsonObject]], tools: JsonObject
) -> JsonObject:
    chosen, rejected = sides
    return {
        "input": {"messages": told, **tools},
        "preferred_output": chosen,
        "non_preferred_output": rejected,
    }


def _common_start(
    sides: Sequence[list[JsonObject]],
) -> tuple[list[JsonObject], list[list[JsonObject]]]:
    """What two conversations have in common, and the last message of each."""
    chosen, rejected = sides
    if chosen[:-1] != rejected[:-1] or len(chosen) < 2:
        raise ExampleError(
            "the chosen and rejected conversations must differ in their last message"
        )
    return chosen[:-1], [chosen[-1:], rejected[-1:]]


def _answers(row: JsonObject, name: str | None, dataset: DatasetFormat) -> list[JsonObject]:
    """A text, a message, or messages."""
    value = _required(row, name)
    if isinstance(value, str):
        return [_assistant(value)]
    if isinstance(value, dict):
        value = [value]
    return _read_messages(value, name, dataset)


def _messages(row: JsonObject, name: str, dataset: DatasetFormat) -> list[JsonObject]:
    return _read_messages(_required(row, name), name, dataset)


def _read_messages(value: Any, name: str | None, dataset: DatasetFormat) -> list[JsonObject]:
    if isinstance(value, str):
        value = read_at(f"the column '{_shown(name)}' holds", parse_json, value)
    if not isinstance(value, list):
        raise ExampleError(f"the column '{_shown(name)}' must be a list of messages")
    return [
        read_at(f"message {number}", lambda item: _message(item, dataset), item)
        for number, item in enumerate(cast(list[object], value), 1)
    ]


def _message(value: object, dataset: DatasetFormat) -> JsonObject:
    tags = dataset.tags
    message = object_of(value, "a message")
    given = message.get(tags.role)
    role = _roles(tags).get(given) if isinstance(given, str) else None
    if role is None and dataset.formatting is Formatting.OPENAI and given in _OPENAI_ROLES:
        role = given
    if role is None:
        known = ", ".join(f"'{name}'" for name in _roles(tags))
        found = f"'{shown_name(given)}'" if isinstance(given, str) else "no text"
        raise ExampleError(f"has {found} as its '{tags.role}': known are {known}")
    rest = {key: item for key, item in message.items() if key not in (tags.role, tags.content)}
    content = message.get(tags.content)
    if role == _CALL:
        return {**rest, "role": "assistant", "content": None, "tool_calls": _calls(content, tags)}
    return {**rest, "role": role, "content": content}


_CALL = "call"


def _roles(tags: Tags) -> dict[str, str]:
    named = (
        (tags.user, "user"),
        (tags.assistant, "assistant"),
        (tags.observation, "tool"),
        (tags.function, _CALL),
        (tags.system, "system"),
    )
    return {name: role for names, role in named for name in names}


def _calls(value: Any, tags: Tags) -> list[JsonObject]:
    """One call, or a list of them, as JSON text or as it is."""
    if isinstance(value, str):
        value = read_at(f"'{tags.content}' of a call holds", parse_json, value)
    calls = cast(list[object], value if isinstance(value, list) else [value])
    if not calls:
        raise ExampleError(f"'{tags.content}' of a call is empty")
    return [
        {"type": "function", "function": object_of(call, f"'{tags.content}' of a call")}
        for call in calls
    ]


def _history(row: JsonObject, name: str | None) -> list[JsonObject]:
    """Pairs of what was asked and answered before."""
    turns = None if name is None else row.get(name)
    if not turns:
        return []
    if isinstance(turns, str):
        turns = read_at(f"the column '{_shown(name)}' holds", parse_json, turns)
    messages: list[JsonObject] = []
    for turn in cast(list[Any], turns) if isinstance(turns, list) else [None]:
        match turn:
            case [str() as asked, str() as answered]:
                messages += [_user(asked), _assistant(answered)]
            case _:
                raise ExampleError(
                    f"the column '{_shown(name)}' must be a list of questions, each with its answer"
                )
    return messages


def _system(row: JsonObject, name: str | None) -> list[JsonObject]:
    text = _text(row, name)
    return [{"role": "system", "content": text}] if text else []


def _tools(row: JsonObject, name: str | None) -> JsonObject:
    value = None if name is None else row.get(name)
    return {} if value in (None, "", [], {}) else {"tools": value}


def _verdict(row: JsonObject, name: str) -> bool:
    verdict = VERDICTS.get(str(_required(row, name)).lower())
    if verdict is None:
        raise ExampleError(f"the column '{_shown(name)}' must be true or false")
    return verdict


def _required(row: JsonObject, name: str | None) -> Any:
    value = None if name is None else row.get(name)
    if value is None:
        raise ExampleError(f"the column '{_shown(name)}' is missing")
    return value


def _required_text(row: JsonObject, name: str) -> str:
    _required(row, name)
    return _text(row, name)


def _text(row: JsonObject, name: str | None) -> str:
    value = None if name is None else row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ExampleError(f"the column '{_shown(name)}' must be a string")
    return value


def _shown(name: str | None) -> str:
    return shown_name(name or "")


def _user(content: str) -> JsonObject:
    return {"role": "user", "content": content}


def _assistant(content: str) -> JsonObject:
    return {"role": "assistant", "content": content}
