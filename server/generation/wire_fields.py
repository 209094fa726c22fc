"""From the fields that generating endpoints share on the wire to what planning takes."""

from __future__ import annotations

import msgspec
import pydantic_core

from server.broken_rules import why_not_json
from server.errors import invalid_value
from server.generation.sampling import NOTHING_ASKED, AskedSampling, Guide
from server.generation.schema_limits import check_size, too_deep
from server.wire import SamplingFields
from workers.contract.parts import Grammar, GrammarKind

_SAMPLING = frozenset(AskedSampling.__struct_fields__)


def read_sampling(fields: SamplingFields) -> AskedSampling:
    given = fields.model_fields_set & _SAMPLING
    if not given:
        return NOTHING_ASKED
    return AskedSampling(**{name: getattr(fields, name) for name in given})


def read_guide(fields: SamplingFields) -> Guide | None:
    """What `guided_*` or `structured_outputs` ask for. Raises InvalidRequest."""
    guides = [*_guided(fields), *_structured(fields)]
    if not guides:
        return None
    if len(guides) > 1:
        raise invalid_value(guides[1].param, f"It cannot be combined with '{guides[0].param}'.")
    check_size(guides[0].grammar, guides[0].param)
    return guides[0]


def _guided(fields: SamplingFields) -> list[Guide]:
    guides: list[Guide] = []
    if fields.guided_json is not None:
        guides.append(_schema(fields.guided_json, "guided_json"))
    if fields.guided_regex is not None:
        guides.append(Guide(Grammar(GrammarKind.REGEX, fields.guided_regex), "guided_regex"))
    if fields.guided_choice is not None:
        guides.append(_choice(fields.guided_choice, "guided_choice"))
    if fields.guided_grammar is not None:
        guides.append(Guide(Grammar(GrammarKind.EBNF, fields.guided_grammar), "guided_grammar"))
    return guides


def _structured(fields: SamplingFields) -> list[Guide]:
    wanted = fields.structured_outputs
    if wanted is None:
        return []
    place = "structured_outputs"
    guides: list[Guide] = []
    if wanted.json_ is not None:
        guides.append(_schema(wanted.json_, f"{place}.json"))
    if wanted.regex is not None:
        guides.append(Guide(Grammar(GrammarKind.REGEX, wanted.regex), f"{place}.regex"))
    if wanted.choice is not None:
        guides.append(_choice(wanted.choice, f"{place}.choice"))
    if wanted.grammar is not None:
        guides.append(Guide(Grammar(GrammarKind.EBNF, wanted.grammar), f"{place}.grammar"))
    if wanted.json_object:
        guides.append(Guide(Grammar(GrammarKind.JSON_OBJECT, ""), f"{place}.json_object"))
    if wanted.structural_tag is not None:
        _check_json(wanted.structural_tag, f"{place}.structural_tag")
        grammar = Grammar(GrammarKind.STRUCTURAL_TAG, wanted.structural_tag)
        guides.append(Guide(grammar, f"{place}.structural_tag"))
    if not guides:
        raise invalid_value(place, "It must name one constraint.")
    return guides


def _schema(schema: dict[str, object] | str, param: str) -> Guide:
    """Raises InvalidRequest."""
    try:
        source = schema if isinstance(schema, str) else msgspec.json.encode(schema).decode()
    except RecursionError as error:
        raise too_deep(param) from error
    if isinstance(schema, str):
        check_size(Grammar(GrammarKind.JSON_SCHEMA, source), param)
        _check_json(schema, param)
    return Guide(Grammar(GrammarKind.JSON_SCHEMA, source), param)


def _check_json(text: str, param: str) -> None:
    """An object in JSON, within the limits of a body. Raises InvalidRequest."""
    try:
        value = pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as error:
        reason = why_not_json(str(error)) or str(error)
        raise invalid_value(param, f"Its text cannot be read as JSON: {reason}.") from None
    if not isinstance(value, dict):
        raise invalid_value(param, "Its text is not a JSON object.")


def _choice(choices: list[str], param: str) -> Guide:
    return Guide(Grammar(GrammarKind.CHOICE, msgspec.json.encode(choices).decode()), param)
