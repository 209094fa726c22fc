"""Grammars that hold an output to a tool choice, as xgrammar structural tags.

A dialect describes its calls as a `Layout`; the rest is the same for all. Property order inside the
arguments follows the schema; white space is free where JSON allows it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from templates.conversation import Tool
from templates.format import FormatError, OutputConstraint, ToolChoice, ToolChoiceMode

Format = dict[str, Any]
Schema = dict[str, Any]

ANY_OBJECT: Schema = {"type": "object"}
NO_ARGUMENTS: Schema = {"type": "object", "properties": {}, "additionalProperties": False}


def json_arguments(name: str, schema: Schema) -> list[Format]:
    return [{"type": "json_schema", "json_schema": schema}]


def xml_arguments(style: str) -> Callable[[str, Schema], list[Format]]:
    """Arguments in one of xgrammar's XML styles."""
    return lambda name, schema: [{"type": "json_schema", "json_schema": schema, "style": style}]


@dataclass(frozen=True, slots=True)
class Layout:
    """How calls stand in the output: `opening call (separator call)* closing`."""

    begin: Callable[[str], str]
    """Text of a call up to its arguments, from the tool's name."""
    end: str
    trigger: str = ""
    """The text by which a call is known in free text; empty: calls stand only at the start."""
    opening: str = ""
    separator: str = "\n"
    closing: str = ""
    arguments: Callable[[str, Schema], list[Format]] = json_arguments
    """What stands between `begin` and `end`, from the tool's name and the arguments' schema."""
    parallel: bool = True
    """Whether one output can hold several calls."""
    preface: Format | None = None
    """What may stand before any bound output (the reasoning channel)."""
    content_opening: str = ""
    """What stands before plain content."""
    other_tags: tuple[Format, ...] = ()
    """What else may follow the trigger in free text."""
    excludes: tuple[str, ...] = ()
    """What free text may not hold, as a call could begin with it unseen."""
    lone_call: bool = False
    """A single call stands without `opening` and `closing`."""
    named_trigger: bool = False
    """`begin` itself, name included, is what a call is known by."""
    content_start: str = r"[^\s{\[]"
    """With an empty trigger: what content, being no call, may begin with (a regex)."""


def constrain(
    layout: Layout, tools: tuple[Tool, ...], choice: ToolChoice, schema: Schema | None
) -> OutputConstraint | None:
    callable_tools = _callable(tools, choice)
    if not callable_tools:
        return None if schema is None else _content_schema(layout, schema)
    required = choice.mode is ToolChoiceMode.REQUIRED
    free = not choice.names and (choice.parallel or not layout.parallel)
    if not required and schema is None and free and not any(t.strict for t in callable_tools):
        return None
    # A choice of one tool is one call of it.
    many = choice.parallel and layout.parallel and not (required and len(choice.names) == 1)
    tags = [_tag(layout, tool, bind=required or tool.strict) for tool in callable_tools]
    calls = _calls(layout, tags, many)
    if required:
        return structural_tag(_prefaced(layout, calls))
    if schema is not None:
        return structural_tag(_prefaced(layout, _either(calls, _content(layout, schema))))
    if not layout.trigger and not layout.named_trigger:
        content = _sequence({"type": "regex", "pattern": layout.content_start}, _ANY_TEXT)
        return structural_tag(_either(calls, content, _const("")))
    barred = [tool.name for tool in tools if tool not in callable_tools]
    return structural_tag(_among_text(layout, tags, many, barred))


def _content_schema(layout: Layout, schema: Schema) -> OutputConstraint:
    if layout.preface or layout.content_opening:
        return structural_tag(_prefaced(layout, _content(layout, schema)))
    return OutputConstraint("json_schema", json.dumps(schema, ensure_ascii=False))


def _content(layout: Layout, schema: Schema) -> Format:
    bound: Format = {"type": "json_schema", "json_schema": schema}
    return _sequence(_const(layout.content_opening), bound)


def _prefaced(layout: Layout, inner: Format) -> Format:
    return _sequence(layout.preface, inner) if layout.preface else inner


def structural_tag(inner: Format) -> OutputConstraint:
    source = {"type": "structural_tag", "format": inner}
    return OutputConstraint("structural_tag", json.dumps(source, ensure_ascii=False))


def bind_content(layout: Layout, constraint: OutputConstraint) -> OutputConstraint:
    """`constraint` for the plain content of an output. Raises FormatError."""
    if not layout.preface and not layout.content_opening:
        return constraint
    content = _sequence(_const(layout.content_opening), as_format(constraint))
    return structural_tag(_prefaced(layout, content))


def as_format(constraint: OutputConstraint) -> Format:
    """The constraint as a part of a structural tag. Raises FormatError where it cannot be one."""
    try:
        return _part(constraint.kind, constraint.source)
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"The {constraint.kind} constraint cannot be read: {error!r}") from error


def _part(kind: str, source: str) -> Format:
    match kind:
        case "structural_tag":
            inner: dict[str, Any] = json.loads(source)["format"]
            return inner
        case "json_schema":
            return {"type": "json_schema", "json_schema": json.loads(source)}
        case "json_object":
            return {"type": "json_schema", "json_schema": {"type": "object"}}
        case "regex":
            return {"type": "regex", "pattern": source}
        case "ebnf":
            return {"type": "grammar", "grammar": source}
        case "choice":
            choices: list[str] = json.loads(source)
            elements = [{"type": "const_string", "value": choice} for choice in choices]
            return {"type": "or", "elements": elements}
        case _:
            raise ValueError(f"unknown kind of constraint: {kind}")


def arguments_schema(tool: Tool) -> Schema:
    """The schema of the arguments object; a tool without parameters takes none."""
    return tool.parameters or NO_ARGUMENTS


def _callable(tools: tuple[Tool, ...], choice: ToolChoice) -> tuple[Tool, ...]:
    if choice.mode is ToolChoiceMode.NONE:
        return ()
    known = {tool.name for tool in tools}
    for name in choice.names:
        if name not in known:
            raise FormatError(f"There is no tool named '{name}' to choose.", "tool_choice")
    if choice.mode is ToolChoiceMode.REQUIRED and not tools:
        raise FormatError("A tool call is required, but there are no tools.", "tool_choice")
    return tuple(tool for tool in tools if not choice.names or tool.name in choice.names)


_ANY_TEXT: Format = {"type": "any_text"}


def _const(text: str) -> Format:
    return {"type": "const_string", "value": text}


def _sequence(*elements: Format) -> Format:
    kept = [e for e in elements if e != _const("")]
    if not kept:
        return _const("")
    return kept[0] if len(kept) == 1 else {"type": "sequence", "elements": kept}


def _either(*elements: Format) -> Format:
    return elements[0] if len(elements) == 1 else {"type": "or", "elements": list(elements)}


def _tag(layout: Layout, tool: Tool, *, bind: bool) -> Format:
    parts = layout.arguments(tool.name, arguments_schema(tool) if bind else ANY_OBJECT)
    return {
        "type": "tag",
        "begin": layout.begin(tool.name),
        "content": _sequence(*parts),
        "end": layout.end,
    }


def _repeated(layout: Layout, tags: list[Format], many: bool) -> Format:
    return {
        "type": "tags_with_separator",
        "tags": tags,
        "separator": layout.separator,
        "at_least_one": True,
        "stop_after_first": not many,
    }


def _calls(layout: Layout, tags: list[Format], many: bool) -> Format:
    block = _sequence(_const(layout.opening), _repeated(layout, tags, many), _const(layout.closing))
    if not layout.lone_call:
        return block
    lone = _repeated(layout, tags, many=False)
    return _either(lone, block) if many else lone


def _among_text(layout: Layout, tags: list[Format], many: bool, barred: list[str]) -> Format:
    """Free text in which a trigger must be followed by a call."""
    if layout.opening:
        tags = [
            {
                "type": "tag",
                "begin": layout.opening,
                "content": _repeated(layout, tags, many),
                "end": layout.closing,
            }
        ]
    return {
        "type": "triggered_tags",
        "triggers": [tag["begin"] for tag in tags] if layout.named_trigger else [layout.trigger],
        "tags": [*tags, *layout.other_tags],
        "excludes": [
            *layout.excludes,
            *(layout.begin(name) for name in barred if layout.named_trigger),
        ],
        "stop_after_first": not many,
    }
