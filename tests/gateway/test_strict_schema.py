"""What a strict schema may hold: only what grammars enforce."""

from __future__ import annotations

from typing import Any

import pytest
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel, Field

from server.answering.strict_schema import broken_promise
from tests.gateway.conftest import MODEL, Gateway, user
from tests.gateway.raw import refusal

NUMBERS = {"type": "array", "items": {"type": "integer"}}

BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"not": {"type": "null"}}, "In context=(), 'not' is not permitted."),
    (
        {"type": "object", "properties": {"a": {**NUMBERS, "uniqueItems": True}}},
        "In context=('properties', 'a'), 'uniqueItems' is not permitted.",
    ),
    (
        {"anyOf": [{"type": "null"}, {"type": "integer", "multipleOf": 7}]},
        "In context=('anyOf', 1), 'multipleOf' is not permitted.",
    ),
    (
        {"$defs": {"n": {"type": "string", "format": "zip"}}, "$ref": "#/$defs/n"},
        "In context=('$defs', 'n'), 'zip' is not a supported format.",
    ),
    ({"$ref": "http://example.com/s"}, "In context=(), '$ref' must begin with '#/'."),
    (
        {"$ref": "#/$defs/n", "minimum": 5, "$defs": {"n": {"type": "integer"}}},
        "In context=(), '$ref' cannot be combined with 'minimum'.",
    ),
    (
        {"allOf": [{"type": "integer"}, {"type": "number"}]},
        "In context=(), 'allOf' is not permitted with more than one schema.",
    ),
    (
        {"type": "array", "items": {"minimum": 5}},
        "In context=('items',), 'minimum' needs a 'type'.",
    ),
    (
        {"type": "string", "pattern": "^a+$", "minLength": 3},
        "In context=(), 'pattern' cannot be combined with 'minLength'.",
    ),
    (
        {"type": "string", "pattern": "^(?!a).*$"},
        "In context=(), 'pattern' cannot look ahead or behind.",
    ),
    (
        {"type": "object", "properties": {}, "required": ["z"]},
        "In context=(), 'required' names 'z', which is not among 'properties'.",
    ),
    ({"type": "string", "format": []}, "In context=(), [] is not a supported format."),
    ({"type": "string", "format": {}}, "In context=(), {} is not a supported format."),
    (
        {"type": "object", "properties": {}, "required": [{}]},
        "In context=(), 'required' names {}, which is not among 'properties'.",
    ),
    (
        {"properties": {"a": {"items": {"not": {}}}, "b": {"if": {}}}},
        "In context=('properties', 'a', 'items'), 'not' is not permitted.",
    ),
]


@pytest.mark.parametrize(("schema", "problem"), BROKEN, ids=[problem for _, problem in BROKEN])
def test_a_part_that_nothing_enforces(schema: dict[str, Any], problem: str) -> None:
    assert broken_promise(schema) == problem


class Street(BaseModel):
    name: str = Field(pattern="^[A-Z]")
    number: int = Field(ge=1, lt=1000)


class Person(BaseModel):
    """Somebody."""

    name: str = Field(min_length=1, max_length=20, description="In full.")
    streets: list[Street] = Field(min_length=1, max_length=3)
    friend: Person | None
    score: float | None = Field(ge=0)


def test_what_the_official_client_makes_of_a_model_is_enforced() -> None:
    assert broken_promise(to_strict_json_schema(Person)) is None


def test_a_deep_schema_takes_no_more_stack() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(3000):
        schema = {"type": "array", "items": schema}
    assert broken_promise(schema) is None


def test_a_property_may_have_a_keyword_for_its_name() -> None:
    schema = {"type": "object", "properties": {"not": {"type": "string"}}, "required": ["not"]}
    assert broken_promise(schema) is None


def test_only_what_is_strict_is_held_to_it(gateway: Gateway) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {"not": {}}}}

    def ask(**fields: Any) -> tuple[str | None, str | None, str]:
        body = {"model": MODEL, "messages": user("refuse me"), **fields}
        refused = refusal(gateway, "/v1/chat/completions", body)
        return refused.code, refused.param, refused.message

    def formatted(strict: bool) -> dict[str, Any]:
        named = {"name": "x", "schema": schema, "strict": strict}
        return {"response_format": {"type": "json_schema", "json_schema": named}}

    def tool(strict: bool) -> dict[str, Any]:
        function = {"name": "f", "parameters": schema, "strict": strict}
        return {"tools": [{"type": "function", "function": function}]}

    where = "In context=('properties', 'a'), 'not' is not permitted."
    assert ask(**formatted(True)) == (
        "invalid_json_schema",
        "response_format",
        f"Invalid schema for response_format 'x': {where}",
    )
    assert ask(**tool(True)) == (
        "invalid_function_parameters",
        "tools[0].function.parameters",
        f"Invalid schema for function 'f': {where}",
    )
    assert ask(**formatted(False))[0] != "invalid_json_schema"
    assert ask(**tool(False))[0] == "context_length_exceeded"  # the engine's own refusal
