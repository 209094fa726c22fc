"""Regular expressions over the text of a JSON string, an escape being a character.

What a schema's `pattern` says of a string's meaning, these say of its text: a quote is a backslash
and a quote there. As JSON Schema wants it, a pattern without `^` and `$` matches a part of the
string. Not covered, and refused: looking around, back references, word borders, classes of
Unicode's properties, anchors anywhere but at the ends of the pattern.
"""

from __future__ import annotations

import re

_HEX = "[0-9A-Fa-f]"
CHARACTER = (
    r'([^"\\\x00-\x1f]|\\(["\\/bfnrt]|u('
    f"[0-9A-CE-Fa-ce-f]{_HEX}{{3}}|[Dd][0-7]{_HEX}{{2}}"
    rf"|[Dd][89ABab]{_HEX}{{2}}\\u[Dd][C-Fc-f]{_HEX}{{2}})))"
)
"""A character of a JSON string, as a regular expression; two surrogates are one."""

Ranges = tuple[tuple[int, int], ...]

_LAST = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
_EVERYTHING: Ranges = ((0, 0xD7FF), (0xE000, _LAST))
_CONTROL: Ranges = ((0, 0x1F),)
_QUOTED: Ranges = ((0x22, 0x22), (0x5C, 0x5C))
_ESCAPES = {0x22: '"', 0x5C: "\\", 8: "b", 12: "f", 10: "n", 13: "r", 9: "t"}
_DIGITS: Ranges = ((0x30, 0x39),)
_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_BLANK: Ranges = (
    (9, 13), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029),
    (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
)  # fmt: skip
_LINE_ENDS: Ranges = ((10, 10), (13, 13), (0x2028, 0x2029))
_CLASSES = {"d": _DIGITS, "w": _WORD, "s": _BLANK}
_LETTERS = {"n": 10, "r": 13, "t": 9, "f": 12, "v": 11, "0": 0}
_CODE = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}")
_REPEAT = re.compile(r"\{(\d{1,6})(,(\d{0,6}))?\}")


class PatternError(ValueError):
    """A pattern that is none, or that grammars cannot hold an output to."""


def text_pattern(pattern: str, *, in_json: bool) -> str:
    """A regular expression for the whole text. `in_json`: for the inside of a JSON string, else for
    plain text. Raises PatternError."""
    return _Reader(pattern, in_json).read()


def _single(code: int) -> Ranges:
    return ((code, code),)


def merged(ranges: list[tuple[int, int]]) -> Ranges:
    out: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(high, out[-1][1]))
        else:
            out.append((low, high))
    return tuple(out)


def without(ranges: Ranges, others: Ranges) -> Ranges:
    for low, high in others:
        kept: list[tuple[int, int]] = []
        for start, end in ranges:
            kept += [(start, min(end, low - 1))] if start < low else []
            kept += [(max(start, high + 1), end)] if end > high else []
        ranges = tuple(kept)
    return ranges


def in_json_string(ranges: Ranges) -> str:
    """One character of `ranges`, as a JSON string spells it."""
    if ranges == _EVERYTHING:
        return CHARACTER
    codes = [c for low, high in ranges for c in range(low, min(high, 0x5C) + 1)]
    options = [in_text(plain)] if (plain := without(without(ranges, _CONTROL), _QUOTED)) else []
    if short := "".join(_ESCAPES[code] for code in codes if code in _ESCAPES):
        escaped = short.replace("\\", "\\\\")
        options.append(rf"\\[{escaped}]")
    for code in codes:
        if code < 0x20:
            last = f"{code & 15:x}"
            options.append(rf"\\u00{code >> 4}[{last}{last.upper()}]")
    return f"({'|'.join(options)})"


def in_text(ranges: Ranges) -> str:
    """One character of `ranges` as it is."""
    return "[" + "".join(f"{_in_class(low)}-{_in_class(high)}" for low, high in ranges) + "]"


def _in_class(code: int) -> str:
    if code < 0x80 and not chr(code).isalnum():
        return f"\\x{code:02x}"
    return chr(code)


class _Reader:
    def __init__(self, pattern: str, in_json: bool) -> None:
        self._text = pattern
        self._at = 0
        self._spell = in_json_string if in_json else in_text
        self._any = CHARACTER if in_json else in_text(_EVERYTHING)

    def read(self) -> str:
        options = [self._anchored()]
        while self._took("|"):
            options.append(self._anchored())
        if self._at < len(self._text):
            raise PatternError(f"a ')' without its '(' at {self._at}")
        return f"({'|'.join(options)})"

    def _anchored(self) -> str:
        """An alternative of the whole pattern."""
        before = "" if self._took("^") else f"{self._any}*"
        body = self._sequence()
        after = "" if self._took("$") else f"{self._any}*"
        return f"{before}{body}{after}"

    def _alternatives(self) -> str:
        options = [self._sequence()]
        while self._took("|"):
            options.append(self._sequence())
        return f"({'|'.join(options)})"

    def _sequence(self) -> str:
        parts: list[str] = []
        while self._at < len(self._text) and self._next not in "|)":
            if self._next == "$" and self._ends_here():
                break
            parts.append(self._repeated())
        return "".join(parts)

    def _ends_here(self) -> bool:
        return self._text[self._at + 1 : self._at + 2] in ("", "|")

    def _repeated(self) -> str:
        atom = self._atom()
        bounds = {"*": "*", "+": "+", "?": "?"}.get(self._next)
        if bounds is not None:
            self._at += 1
        elif found := _REPEAT.match(self._text, self._at):
            self._at = found.end()
            least, most = found[1], found[3] if found[2] else found[1]
            if most and int(most) < int(least):
                raise PatternError(f"numbers out of order in '{found[0]}'")
            bounds = f"{{{least}}}" if not found[2] else f"{{{least},{most}}}"
        else:
            return atom
        self._took("?")  # which of the ways to match it is has no effect on whether it does
        if self._next and self._next in "*+?":
            raise PatternError(f"nothing to repeat at {self._at}")
        return f"({atom}){bounds}"

    def _atom(self) -> str:
        if self._took("("):
            return self._group()
        if self._took("["):
            return self._set(self._class())
        if self._took("."):
            return self._set(without(_EVERYTHING, _LINE_ENDS))
        if self._took("\\"):
            return self._set(self._escaped())
        if self._next in "^$*+?":
            raise PatternError(f"a '{self._next}' that cannot stand at {self._at}")
        self._at += 1
        return self._set(_single(ord(self._text[self._at - 1])))

    def _group(self) -> str:
        if self._took("?"):
            name = re.compile(r":|<[A-Za-z_]\w*>").match(self._text, self._at)
            if name is None:
                raise PatternError("it looks around, or sets flags")
            self._at = name.end()
        inner = self._alternatives()
        if not self._took(")"):
            raise PatternError("a '(' without its ')'")
        return inner

    def _set(self, ranges: Ranges) -> str:
        ranges = without(ranges, (_SURROGATES,))
        if not ranges:
            raise PatternError("a class that no character is in")
        return self._spell(ranges)

    def _class(self) -> Ranges:
        is_negated = self._took("^")
        found: list[tuple[int, int]] = []
        while not self._took("]"):
            low = self._member()
            is_range = self._next == "-" and self._text[self._at + 1 : self._at + 2] not in (
                "",
                "]",
            )
            if not is_range or low[0][0] != low[-1][1]:
                found += low
                continue
            self._at += 1
            high = self._member()
            if high[0][0] != high[-1][1] or high[0][0] < low[0][0]:
                raise PatternError("a range out of order")
            found.append((low[0][0], high[0][0]))
        ranges = merged(found)
        return without(_EVERYTHING, ranges) if is_negated else ranges

    def _member(self) -> Ranges:
        if not self._next:
            raise PatternError("a '[' without its ']'")
        if self._took("\\"):
            return _single(8) if self._took("b") else self._escaped()
        self._at += 1
        return _single(ord(self._text[self._at - 1]))

    def _escaped(self) -> Ranges:
        if found := _CODE.match(self._text, self._at):
            self._at = found.end()
            code = int(found[1] or found[2] or found[3], 16)
            if code > _LAST:
                raise PatternError("a code beyond Unicode")
            return _single(code)
        letter = self._next
        self._at += 1
        if letter.lower() in _CLASSES:
            ranges = _CLASSES[letter.lower()]
            return ranges if letter.islower() else without(_EVERYTHING, ranges)
        if letter in _LETTERS:
            return _single(_LETTERS[letter])
        if not letter or letter.isalnum():
            raise PatternError(f"the escape '\\{letter}' is not supported")
        return _single(ord(letter))

    @property
    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _took(self, character: str) -> bool:
        taken = self._next == character
        self._at += taken
        return taken
