"""Llama 3 and 4: bare JSON objects with `parameters`, several in a list.

Tool text is LLaMA-Factory 0.9.5's, which shows the day it is rendered on.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from templates.dialects.base import Call, Dialect, Tools, to_json, wrapped_declaration
from templates.dialects.call_lists import ListSyntax
from templates.dialects.constraints import Layout
from templates.dialects.json_objects import ObjectParser

_HEADER = """Cutting Knowledge Date: December 2023
Today Date: {date}

You have access to the following functions. To call a function, please respond with JSON for a \
function call. Respond in the format {{"name": function name, "parameters": dictionary of argument \
name and its value}}. Do not use variables.

"""
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_SYNTAX = ListSyntax(
    ("<|python_tag|>", "<|python_start|>", "<|python_end|>"), ("<|python_end|>",), bare=True
)
"""Llama 4's own template writes an empty pair of marks, or one around the text, ahead of a call."""


def llama3(today: Callable[[], date] = date.today) -> Dialect:
    def show(tools: Tools) -> str:
        day = today()
        header = _HEADER.format(date=f"{day.day:02d} {_MONTHS[day.month - 1]} {day.year}")
        return header + "".join(to_json(wrapped_declaration(t), indent=4) + "\n\n" for t in tools)

    return Dialect(
        name="llama3",
        show_tools=show,
        write_calls=_write,
        read=lambda tools: ObjectParser(tools, _SYNTAX),
        layout=Layout(
            lambda name: f'{{"name": "{name}", "parameters": ',
            "}",
            opening="[",
            separator=", ",
            closing="]",
            lone_call=True,
        ),
        keeps_special_tokens=True,
    )


def _write(calls: list[Call]) -> str:
    written = [{"name": call.name, "parameters": call.arguments} for call in calls]
    return to_json(written[0] if len(written) == 1 else written)


LLAMA3 = llama3()
