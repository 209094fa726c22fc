"""Reads files of named templates and says on which line one is wrong.

A file maps names to definitions. The built-in ones are in `families/`; an operator's folder may
hold more. Fields of a definition (all optional but `user` and `assistant`, which `like` may give):

    my_template:
      like: chatml                  # start from another definition, of this file or a built-in one
      prefix: [{special: bos}]      # once, at the very start
      system: "<s>{{content}}</s>"  # a text, or a list of texts, {special: bos|eos}, {token: "<x>"}
      user: ...                     # ends with what opens the assistant's answer
      assistant: ...
      calls: ...                    # an assistant message of tool calls; default: as assistant
      results: ...                  # tool results; default: as user
      results_between: "\\n"         # between results of parallel calls; default: repeat the slot
      default_system: ""
      stop: ["</s>"]
      eos: written                  # or replaced (stop[0] is the eos), or implied (no end in slot)
      dialect: qwen                 # of tool lists and calls
      reads: harmony                # of outputs; default: the same dialect
      tool_list: ["<tools>", "</tools>"]
      system_place: own_turn        # or first_user
      thinking: {open: "<think>\\n", close: "\\n</think>\\n\\n", empty: "..."}
      thought_words: ["<think>", "</think>"]
      effort: {levels: [low, high], text: "\\nReasoning: {{content}}"}  # ends the system text
      media: {image: "<image>"}
      note: "shown in the list of templates"
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from templates.conversation import MediaKind
from templates.dialects import DIALECTS
from templates.effort import EFFORTS
from templates.family import (
    CONTENT,
    Effort,
    Element,
    EosUse,
    Family,
    Slot,
    SpecialToken,
    SystemPlace,
    Thinking,
)


class FamilyFileError(Exception):
    """A definition that cannot be used. The message gives file, line and column."""

    def __init__(self, source: str, mark: yaml.Mark | None, message: str) -> None:
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        super().__init__(f"{place}: {message}")


def read_family_file(path: Path, known: dict[str, Family] | None = None) -> dict[str, Family]:
    """The definitions of a file; `known` may be named by `like`."""
    return parse_families(path.read_text(encoding="utf-8"), str(path), known or {})


def parse_families(text: str, source: str, known: dict[str, Family]) -> dict[str, Family]:
    try:
        root = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        problem = error.problem or "is no valid YAML"
        raise FamilyFileError(source, error.problem_mark, problem) from error
    if root is None:
        return {}
    reader = _Reader(source)
    families: dict[str, Family] = {}
    for key, node in reader.items(root, "the file"):
        name = key.value
        if name in families:
            raise reader.error(key, f"template {name!r} is defined twice")
        families[name] = reader.family(name, key, node, {**known, **families})
    return families


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Reader:
    """Turns YAML nodes to values, so that an error can show its line."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._fields: dict[str, Callable[[yaml.Node], Any]] = {
            "prefix": lambda node: self.slot(node, content=False),
            "system": self.slot,
            "user": self.slot,
            "assistant": self.slot,
            "calls": self.slot,
            "results": self.slot,
            "results_between": self.text,
            "default_system": self.text,
            "stop": self.texts,
            "eos": lambda node: self.choice(node, EosUse),
            "dialect": self.dialect,
            "reads": self.dialect,
            "tool_list": self.pair,
            "system_place": lambda node: self.choice(node, SystemPlace),
            "thinking": self.thinking,
            "thought_words": self.pair,
            "effort": self.effort,
            "media": self.media,
            "note": self.text,
        }

    def error(self, node: yaml.Node, message: str) -> FamilyFileError:
        return FamilyFileError(self._source, node.start_mark, message)

    def family(
        self, name: str, key: yaml.Node, node: yaml.Node, known: dict[str, Family]
    ) -> Family:
        values: dict[str, Any] = {}
        base: Family | None = None
        for field, value in self.items(node, f"template {name!r}"):
            if field.value == "like":
                base = known.get(self.text(value))
                if base is None:
                    raise self.error(value, f"there is no template {value.value!r} to be like")
            elif field.value not in self._fields:
                raise self.error(field, f"unknown field {field.value!r}")
            elif field.value in values:
                raise self.error(field, f"field {field.value!r} is given twice")
            else:
                values[field.value] = self._fields[field.value](value)
        return self._complete(name, key, values, base)

    def _complete(
        self, name: str, key: yaml.Node, values: dict[str, Any], base: Family | None
    ) -> Family:
        if base is not None:
            family = replace(base, **{"name": name, "note": "", **values})
        else:
            for field in ("user", "assistant"):
                if field not in values:
                    raise self.error(key, f"template {name!r} has no {field!r}")
            content = (Element(has_content=True),)
            values = {
                "prefix": (),
                "system": content,
                "calls": values["assistant"],
                "results": values["user"],
                **values,
            }
            family = Family(name=name, **values)
        if family.eos is EosUse.REPLACED and not family.stop:
            raise self.error(key, f"template {name!r} replaces eos but has no stop word")
        if family.thinking is not None and "thought_words" not in values:
            words = (family.thinking.open, family.thinking.close)
            family = replace(family, thought_words=words)
        return family

    def items(self, node: yaml.Node, what: str) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, f"{what} must be a mapping")
        pairs: list[tuple[yaml.ScalarNode, yaml.Node]] = []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self.error(key, "a key must be a text")
            pairs.append((key, value))
        return pairs

    def text(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag == "tag:yaml.org,2002:null":
            raise self.error(node, "must be a text")
        return node.value

    def dialect(self, node: yaml.Node) -> str:
        name = self.text(node)
        if name not in DIALECTS:
            known = ", ".join(DIALECTS)
            raise self.error(node, f"there is no tool-call dialect {name!r}; one of: {known}")
        return name

    def texts(self, node: yaml.Node) -> tuple[str, ...]:
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(node, "must be a list of texts")
        return tuple(self.text(item) for item in node.value)

    def pair(self, node: yaml.Node) -> tuple[str, str]:
        values = self.texts(node)
        if len(values) != 2:
            raise self.error(node, "must be a list of two texts")
        return values[0], values[1]

    def choice(self, node: yaml.Node, kind: type[EosUse] | type[SystemPlace]) -> Any:
        try:
            return kind(self.text(node))
        except ValueError:
            allowed = ", ".join(kind)
            raise self.error(node, f"must be one of: {allowed}") from None

    def slot(self, node: yaml.Node, content: bool = True) -> Slot:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        elements = tuple(self._element(item) for item in nodes)
        if content and not any(element.has_content for element in elements):
            raise self.error(node, f"lacks {CONTENT}")
        if not content and any(element.has_content for element in elements):
            raise self.error(node, f"cannot hold {CONTENT}")
        return elements

    def _element(self, node: yaml.Node) -> Element:
        if isinstance(node, yaml.MappingNode):
            items = self.items(node, "an element")
            if len(items) != 1 or items[0][0].value not in ("special", "token"):
                raise self.error(node, "must be a text, {special: bos|eos} or {token: ...}")
            key, value = items[0]
            if key.value == "token":
                return Element(before=self.text(value))
            try:
                return Element(special=SpecialToken(self.text(value)))
            except ValueError:
                raise self.error(value, "must be one of: bos, eos") from None
        before, found, after = self.text(node).partition(CONTENT)
        return Element(before=before, has_content=bool(found), after=after)

    def thinking(self, node: yaml.Node) -> Thinking | None:
        if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null":
            return None
        values = {key.value: self.text(value) for key, value in self.items(node, "thinking")}
        if not {"open", "close"} <= values.keys() or not values.keys() <= {
            "open",
            "close",
            "empty",
        }:
            raise self.error(node, "thinking takes open, close and perhaps empty")
        empty = values.get("empty", values["open"] + values["close"])
        return Thinking(values["open"], values["close"], empty)

    def effort(self, node: yaml.Node) -> Effort:
        values = {key.value: value for key, value in self.items(node, "effort")}
        if values.keys() != {"levels", "text"}:
            raise self.error(node, "effort takes levels and text")
        levels = self.texts(values["levels"])
        for level, item in zip(levels, values["levels"].value, strict=True):
            if level not in EFFORTS:
                raise self.error(item, f"must be one of: {', '.join(EFFORTS)}")
        before, found, after = self.text(values["text"]).partition(CONTENT)
        if not found:
            raise self.error(values["text"], f"lacks {CONTENT}")
        return Effort(levels, before, after)

    def media(self, node: yaml.Node) -> dict[MediaKind, str]:
        tokens: dict[MediaKind, str] = {}
        for key, value in self.items(node, "media"):
            try:
                tokens[MediaKind(key.value)] = self.text(value)
            except ValueError:
                allowed = ", ".join(MediaKind)
                raise self.error(key, f"unknown kind of media; one of: {allowed}") from None
        return tokens
