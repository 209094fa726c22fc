"""Compiles chat templates in a sandbox, with the helpers that templates of Hugging Face rely on.

Mirrors `transformers.utils.chat_template_utils`: `tojson` that escapes no HTML, `raise_exception`,
`strftime_now`, loop controls, and `{% generation %}`, whose output is put between marks when the
rendering asks for it by the variable `GENERATION_MARKS`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, cast

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.utils
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

GENERATION_MARKS = "tuneyard_generation_marks"
MAX_CACHED_TEMPLATES = 64


class TemplateRefusal(jinja2.TemplateError):
    """The template itself refused the conversation, by `raise_exception`."""


@dataclass(frozen=True, slots=True)
class CompiledTemplate:
    template: jinja2.Template
    variables: frozenset[str]
    """The names the template reads from outside."""
    marks_generation: bool

    def render(self, variables: Mapping[str, Any]) -> str:
        return self.template.render(variables)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}`: what the assistant says."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_marked", [jinja2.nodes.ContextReference()])
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _marked(self, context: jinja2.runtime.Context, caller: jinja2.runtime.Macro) -> str:
        marks = context.get(GENERATION_MARKS)
        text = caller()
        return f"{marks[0]}{text}{marks[1]}" if marks else text


@lru_cache(maxsize=MAX_CACHED_TEMPLATES)
def compile_template(source: str) -> CompiledTemplate:
    """Raises `jinja2.TemplateSyntaxError`, which carries the line."""
    environment = _environment()
    tree = environment.parse(source)
    variables = jinja2.meta.find_undeclared_variables(tree)
    marks = any(
        isinstance(block.call.node, jinja2.nodes.ExtensionAttribute)
        for block in tree.find_all(jinja2.nodes.CallBlock)
    )
    return CompiledTemplate(environment.from_string(tree), frozenset(variables), marks)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _tojson
    helpers: dict[str, Any] = {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    cast(dict[str, Any], environment.globals).update(helpers)
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise TemplateRefusal(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


class _Dict:
    """`dict(...)` without the type, whose attributes would lead out of the sandbox."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(jinja2.utils.Namespace):
    """`namespace(...)` that takes no underscore-prefixed attributes."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _check_attribute(name)
        jinja2.utils.Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)


def _check_attribute(name: str) -> None:
    if name.startswith("_"):
        raise SecurityError("A chat template cannot store underscore-prefixed attributes.")
