"""gpt-oss: harmony messages, each in a channel. Reasoning is the `analysis` channel, the answer the
`final` one, calls are `commentary` to `functions.<name>`; commentary to no one is content.

One call ends a turn, so there are no parallel calls. Output without channels is content.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from templates.conversation import Tool
from templates.dialects.base import Call, Dialect, Tools, to_json
from templates.dialects.constraints import Format, Layout
from templates.dialects.reading import Scan, partial_mark
from templates.dialects.scanning import CallParser
from templates.format import ContentDelta, ReasoningDelta

_START, _CHANNEL, _MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_ENDS = ("<|end|>", "<|return|>", "<|call|>", _START, _CHANNEL)
_CHANNEL_NAME = re.compile(r"(?:^|<\|channel\|>)\s*(analysis|commentary|final)\b")
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_TO, _FUNCTIONS = "to=", "functions."


class HarmonyParser(CallParser):
    markers = (_START, _CHANNEL, _MESSAGE)

    def _opening(self) -> Scan[None]:
        """A recipient may stand before the channel: the prompt ends in `<|start|>assistant`."""
        yield from self._space()
        if (yield from self._starts(_TO)):
            yield from self._message(_START)

    def _begins_bare(self, held: str) -> bool:
        begun = held.lstrip()
        return bool(begun) and (begun.startswith(_TO) or _TO.startswith(begun))

    def _calls(self, marker: str) -> Scan[None]:
        yield from self._message(marker)

    def _message(self, marker: str) -> Scan[None]:
        header = "" if marker == _MESSAGE else (yield from self._until(_MESSAGE))
        if header is None:
            return
        channel = _CHANNEL_NAME.search(header)
        recipient = _RECIPIENT.search(header)
        if recipient:
            name = recipient[1]
            self._given_back = self._pos - (self._mark or 0)
            if name.startswith(_FUNCTIONS) and self._tools:
                yield from self._space()
                yield from self._arguments(name.removeprefix(_FUNCTIONS))
                if self._mark is None:
                    yield from self._close("<|call|>")
            return
        self._mark, self._after_call = None, False
        if channel and channel[1] == "analysis":
            yield from self._body(self._reasoning_out, ReasoningDelta)
        else:
            yield from self._body(self._content_out, ContentDelta)

    def _body(
        self,
        emit: Callable[[int, int], None],
        plain: Callable[[str], ContentDelta | ReasoningDelta],
    ) -> Scan[None]:
        """Streams a message up to its end."""
        self._plain = plain
        while True:
            found = [(hit, mark) for mark in _ENDS if (hit := self._buf.find(mark, self._pos)) >= 0]
            at, end = min(found, default=(partial_mark(self._buf, self._pos, _ENDS), ""))
            emit(self._pos, at)
            self._pos = at
            if end:
                self._pos += 0 if end in (_START, _CHANNEL) else len(end)
                self._after_call = self._only_space = True
                break
            self._idle = self._at_end()
            if not (yield from self._more()):
                if not self._cut:
                    emit(self._pos, len(self._buf))
                self._pos = len(self._buf)
                break
        self._plain = ContentDelta


def _namespace(tools: Tools) -> str:
    """The tools as the developer message lists them, arguments as a JSON schema comment."""
    shown = "".join(_function(tool) for tool in tools)
    return f"# Tools\n\n## functions\n\nnamespace functions {{\n\n{shown}}} // namespace functions"


def _function(tool: Tool) -> str:
    about = f"// {tool.description}\n" if tool.description else ""
    if not (tool.parameters or {}).get("properties"):
        return f"{about}type {tool.name} = () => any;\n\n"
    return f"{about}// {to_json(tool.parameters)}\ntype {tool.name} = (_: object) => any;\n\n"


def _write(calls: list[Call]) -> str:
    call = calls[0]
    return (
        f"{_CHANNEL}commentary to={_FUNCTIONS}{call.name} <|constrain|>json"
        f"{_MESSAGE}{to_json(call.arguments)}<|call|>"
    )


_ANALYSIS: Format = {
    "type": "optional",
    "content": {
        "type": "tag",
        "begin": f"{_CHANNEL}analysis{_MESSAGE}",
        "content": {"type": "any_text"},
        "end": f"<|end|>{_START}assistant",
    },
}
_PREAMBLE: Format = {
    "type": "tag",
    "begin": f"{_CHANNEL}commentary{_MESSAGE}",
    "content": {"type": "any_text"},
    "end": "<|end|>",
}

HARMONY = Dialect(
    name="harmony",
    show_tools=_namespace,
    write_calls=_write,
    read=HarmonyParser,
    layout=Layout(
        lambda name: f"{_CHANNEL}commentary to={_FUNCTIONS}{name} <|constrain|>json{_MESSAGE}",
        "<|call|>",
        trigger=f"{_CHANNEL}commentary",
        parallel=False,
        preface=_ANALYSIS,
        content_opening=f"{_CHANNEL}final{_MESSAGE}",
        other_tags=(_PREAMBLE,),
        excludes=(f" to={_FUNCTIONS}",),
    ),
    keeps_special_tokens=True,
    reads_reasoning=True,
)
