"""Mistral: a JSON list after `[TOOL_CALLS]` (tokenizers up to v7), then `name[ARGS]{...}` (v11 on).

`mistral` is LLaMA-Factory 0.9.5's text, which leaves `[TOOL_CALLS]` out; models write it. Ids stand
after the arguments in the old lists and are not reported from there (arguments do not wait for
them); `[CALL_ID]` of the newer form is.
"""

from __future__ import annotations

import re

from templates.dialects.base import Call, Dialect, to_json, wrapped_list
from templates.dialects.call_lists import ListSyntax
from templates.dialects.constraints import Layout
from templates.dialects.json_objects import ObjectParser, named_object
from templates.dialects.reading import Scan
from templates.dialects.scanning import CallParser

_MARK = "[TOOL_CALLS]"
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,128}")
_CALL_ID = re.compile(r"[A-Za-z0-9_.:\-]{1,128}")


def _listed(calls: list[Call]) -> str:
    return f"[{', '.join(map(named_object, calls))}]"


def _listed_with_ids(calls: list[Call]) -> str:
    written: list[str] = []
    for call in calls:
        shown = {"name": call.name, "arguments": call.arguments}
        written.append(to_json(shown | {"id": call.id} if call.id else shown))
    return f"{_MARK} [{', '.join(written)}]"


class NamedParser(CallParser):
    markers = (_MARK,)

    def _calls(self, marker: str) -> Scan[None]:
        yield from self._named_call()

    def _named_call(self) -> Scan[None]:
        name = yield from self._word(_NAME)
        call_id: str | None = None
        if not name:
            return
        if (yield from self._take("[CALL_ID]")):
            call_id = (yield from self._word(_CALL_ID)) or None
        if (yield from self._take("[ARGS]")) or (yield from self._starts("{")):
            yield from self._arguments(name, call_id)


class ListParser(ObjectParser, NamedParser):
    """The list; also the newer form, which models of a few releases mix in."""

    def _calls(self, marker: str) -> Scan[None]:
        yield from self._space()
        if (yield from self._peek()) in ("[", "{"):
            yield from self._block()
        else:
            yield from self._named_call()


def _named(calls: list[Call]) -> str:
    return "".join(
        f"{_MARK}{call.name}"
        + (f"[CALL_ID]{call.id}" if call.id else "")
        + f"[ARGS]{to_json(call.arguments)}"
        for call in calls
    )


_LIST_LAYOUT = Layout(
    lambda name: f'{{"name": "{name}", "arguments": ',
    "}",
    trigger=_MARK,
    opening=f"{_MARK} [",
    separator=", ",
    closing="]",
)
_SYNTAX = ListSyntax((_MARK,), bare=True)

MISTRAL = Dialect(
    name="mistral",
    show_tools=lambda tools: f"[AVAILABLE_TOOLS] {wrapped_list(tools)}[/AVAILABLE_TOOLS]",
    write_calls=_listed,
    write_natively=lambda calls: f"{_MARK} {_listed(calls)}",
    read=lambda tools: ListParser(tools, _SYNTAX),
    layout=_LIST_LAYOUT,
    keeps_special_tokens=True,
)
MISTRAL_IDS = Dialect(
    name="mistral_ids",
    show_tools=MISTRAL.show_tools,
    write_calls=_listed_with_ids,
    read=lambda tools: ListParser(tools, _SYNTAX),
    layout=_LIST_LAYOUT,
    keeps_special_tokens=True,
)
MISTRAL_V11 = Dialect(
    name="mistral_v11",
    show_tools=lambda tools: f"[AVAILABLE_TOOLS]{wrapped_list(tools)}[/AVAILABLE_TOOLS]",
    write_calls=_named,
    read=NamedParser,
    layout=Layout(lambda name: f"{_MARK}{name}[ARGS]", "", trigger=_MARK, separator=""),
    keeps_special_tokens=True,
)
