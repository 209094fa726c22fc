"""Dialects that write calls as Python: LFM2, Llama 3.2 and 4, Gemma 3, OLMo 3.

LFM2's tool text is LLaMA-Factory 0.9.5's. Strings are written with JSON's escapes, which Python
reads alike (LLaMA-Factory writes them raw, so a quote in one could not be read back).
"""

from __future__ import annotations

import json
import re

from templates.dialects.base import Call, Dialect, Tools, declaration, to_json
from templates.dialects.call_lists import ListParser, ListSyntax
from templates.dialects.constraints import Layout
from templates.dialects.literal_grammars import keyword_arguments
from templates.dialects.literals import LiteralParser
from templates.dialects.reading import Scan, begins_any, quoted

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,127}")
_KEY = re.compile(r"[^\W\d][\w.\-]{0,127}")
_HEX = re.compile(r"[0-9A-Fa-f]{1,8}")
_OCTAL = re.compile(r"[0-7]{1,3}")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v"}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}


class PythonParser(ListParser, LiteralParser):
    """Calls with keyword arguments."""

    def _begins_call(self, char: str) -> bool:
        return char.isalpha() or char == "_"

    def _begins_bare(self, held: str) -> bool:
        return begins_any("".join(held.split()), (f"[{name}(" for name in self._tools))

    def _call(self) -> Scan[bool]:
        name = yield from self._word(_NAME)
        if not name or (self._bare and name not in self._tools):
            return False
        if not (yield from self._take("(")):
            return False
        count = 0
        while True:
            if (yield from self._take_after_space(")")):
                if count == 0:
                    self._start(name)
                self._argue("}" if count else "{}")
                return True
            if count:
                if not (yield from self._take(",")):
                    return False
                if (yield from self._take_after_space(")")):
                    self._argue("}")
                    return True
            key = yield from self._word(_KEY)
            if not key or not (yield from self._take_after_space("=")):
                return False
            if count == 0:
                self._start(name)
            self._argue(("{" if count == 0 else ", ") + json.dumps(key) + ": ")
            if not (yield from self._literal()):
                return False
            count += 1

    def _quote(self) -> Scan[str]:
        char = yield from self._peek()
        if char not in ("'", '"'):
            return ""
        for quote in (char * 3, char):
            if (yield from self._take(quote)):
                return quote
        return ""

    def _text(self, quote: str) -> Scan[bool]:
        while True:
            end = yield from self._stream_until(quote, "\\", emit=self._argue_text)
            if end is None:
                return False
            if end == quote:
                return True
            if not (yield from self._escape()):
                return False

    def _escape(self) -> Scan[bool]:
        """Takes what follows a backslash."""
        char = yield from self._peek()
        if not char:
            self._argue_text("" if self._cut else "\\")
            return False
        if char in "01234567":
            digits = yield from self._word(_OCTAL)
            if self._cut:
                return False
            self._argue_text(chr(int(digits, 8)))
            return True
        self._pos += 1
        if char in _HEX_DIGITS:
            yield from self._code_point(char)
        elif char in _ESCAPES:
            self._argue_text(_ESCAPES[char])
        elif char in "'\"\\/":
            self._argue_text(char)
        elif char != "\n":
            self._argue_text("\\" + char)
        return True

    def _code_point(self, kind: str) -> Scan[None]:
        size = _HEX_DIGITS[kind]
        while len(self._buf) - self._pos < size and (yield from self._more()):
            pass
        digits = self._buf[self._pos : self._pos + size]
        if len(digits) < size and self._cut:
            return
        if len(digits) < size or not _HEX.fullmatch(digits):
            self._argue_text("\\" + kind)
            return
        self._pos += size
        code = int(digits, 16)
        if code <= 0xFFFF:
            self._argue(f"\\u{code:04x}")  # halves of a pair meet again in the JSON
        else:
            self._argue_text(chr(code) if code <= 0x10FFFF else "\ufffd")

    def _key(self) -> Scan[str | None]:
        """A dict's key: a string."""
        char = yield from self._peek()
        if char not in ("'", '"'):
            return None
        self._pos += 1
        key = yield from self._until(char)
        if key is None or not (yield from self._take_after_space(":")):
            return None
        return key.replace("\\" + char, char)

    def _argue_text(self, text: str) -> None:
        self._argue(quoted(text)[1:-1])


def _python_call(call: Call) -> str:
    shown = ", ".join(f"{key}={to_json(value)}" for key, value in call.arguments.items())
    return f"{call.name}({shown})"


def _dialect(name: str, begin: str, end: str, *, syntax: ListSyntax, special: bool) -> Dialect:
    def write(calls: list[Call]) -> str:
        return begin + ", ".join(map(_python_call, calls)) + end

    return Dialect(
        name=name,
        show_tools=lambda tools: to_json([declaration(tool) for tool in tools]),
        write_calls=write,
        read=lambda tools: PythonParser(tools, syntax),
        layout=Layout(
            lambda name: f"{name}(",
            ")",
            trigger=syntax.begins[0] if not syntax.bare else "",
            opening=begin,
            separator=", ",
            closing=end,
            arguments=keyword_arguments,
            content_start=r"[^\s\[]",
        ),
        keeps_special_tokens=special,
    )


def _lfm2_tools(tools: Tools) -> str:
    shown = to_json([declaration(tool) for tool in tools])
    return f"List of tools: <|tool_list_start|>{shown}<|tool_list_end|>"


_LFM2 = ListSyntax(("<|tool_call_start|>",), ("<|tool_call_end|>",))

LFM2 = Dialect(
    name="lfm2",
    show_tools=_lfm2_tools,
    write_calls=lambda calls: (
        f"<|tool_call_start|>[{', '.join(map(_python_call, calls))}]<|tool_call_end|>"
    ),
    read=lambda tools: PythonParser(tools, _LFM2),
    layout=Layout(
        lambda name: f"{name}(",
        ")",
        trigger="<|tool_call_start|>",
        opening="<|tool_call_start|>[",
        separator=", ",
        closing="]<|tool_call_end|>",
        arguments=keyword_arguments,
    ),
    keeps_special_tokens=True,
)
LLAMA_PYTHONIC = _dialect(
    "llama_pythonic",
    "[",
    "]",
    syntax=ListSyntax(("<|python_start|>", "<|python_tag|>"), ("<|python_end|>",), bare=True),
    special=True,
)
GEMMA3 = _dialect(
    "gemma3",
    "```tool_code\n[",
    "]\n```",
    syntax=ListSyntax(("```tool_code",), ("```",)),
    special=False,
)
OLMO3 = _dialect(
    "olmo3",
    "<function_calls>",
    "</function_calls>",
    syntax=ListSyntax(("<function_calls>",), ("</function_calls>",)),
    special=False,
)
