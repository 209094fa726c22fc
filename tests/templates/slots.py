"""A second renderer of LLaMA-Factory's named templates, straight from their published slots
(`data/slots.json.gz`), sharing nothing with ours but the texts of tools and calls, which are facts
too (`tests/dialects/data/tool_formats.json`).

Source of the behaviour: LLaMA-Factory 0.9.5, `data/template.py` and `data/formatter.py`.
"""

from __future__ import annotations

import gzip
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

BOS, EOS = "⟦bos⟧", "⟦eos⟧"
_HERE = Path(__file__).parent


@cache
def slots() -> dict[str, Any]:
    return json.loads(gzip.decompress((_HERE / "data" / "slots.json.gz").read_bytes()))


@cache
def tool_facts() -> dict[str, Any]:
    path = _HERE.parent / "dialects" / "data" / "tool_formats.json"
    return json.loads(path.read_text("utf-8"))


class SlotTemplate:
    """Messages are `(role, content)`; calls are the facts' `one_call` or `two_calls`, by name."""

    def __init__(self, name: str) -> None:
        self._facts = slots()[name]
        self._words: tuple[str, str] = tuple(self._facts["thought_words"])
        self._eos = self._facts["stop_words"][0] if self._facts["replace_eos"] else EOS
        kind = self._facts["template_class"]
        self._reasons = "Reasoning" in kind
        self._empty = self._words[1] if kind.startswith("Glm47") else "".join(self._words)
        self._merges_system = kind == "Llama2Template"

    def one_turn(
        self,
        messages: list[tuple[str, str]],
        system: str,
        tools: str | None,
        enable_thinking: bool | None,
        preserve_thinking: bool,
    ) -> tuple[list[str], list[str]]:
        """Prompt and response of the last turn, as runs of text."""
        said = list(messages)
        if self._reasons and not preserve_thinking:
            for i in range(1, len(said) - 2, 2):
                said[i] = (said[i][0], self._without_thought(said[i][1]))
        if self._reasons and enable_thinking is False:
            said[-1] = (said[-1][0], self._without_thought(said[-1][1]))
        encoded = self._encode(said, system, tools)
        prompt, response = [run for runs in encoded[:-1] for run in runs], encoded[-1]
        return self._with_empty(prompt, response, said[-1][1], enable_thinking)

    def turns(
        self,
        messages: list[tuple[str, str]],
        system: str,
        tools: str | None,
        enable_thinking: bool | None,
    ) -> list[tuple[list[str], list[str]]]:
        """Every turn's prompt and response, for training."""
        said = list(messages)
        if self._reasons and enable_thinking is False:
            for i in range(1, len(said), 2):
                said[i] = (said[i][0], self._without_thought(said[i][1]))
        encoded = self._encode(said, system, tools)
        return [
            self._with_empty(encoded[i], encoded[i + 1], said[i + 1][1], enable_thinking)
            for i in range(0, len(said), 2)
        ]

    def _with_empty(
        self, prompt: list[str], response: list[str], said: str, enable_thinking: bool | None
    ) -> tuple[list[str], list[str]]:
        has_thought = any(word.strip() in said for word in self._words)
        if not self._reasons or has_thought:
            return prompt, response
        if enable_thinking:
            return prompt, [self._empty, *response]
        return [*prompt, self._empty], response

    def _without_thought(self, text: str) -> str:
        opening, closing = map(re.escape, self._words)
        return re.sub(f"{opening}(.*?){closing}", "", text, flags=re.DOTALL).lstrip("\n")

    def _encode(
        self, messages: list[tuple[str, str]], system: str, tools: str | None
    ) -> list[list[str]]:
        system = system or self._facts["default_system"]
        encoded: list[list[str]] = []
        for i, (role, content) in enumerate(messages):
            runs: list[str] = []
            merged = ""
            if i == 0:
                runs += self._fill("prefix")
                if system or tools:
                    lead = self._fill("system", system + self._tool_text(tools))
                    merged, runs = (lead[0], runs) if self._merges_system else ("", runs + lead)
            if role == "function":
                content = self._call_text(content)
            elif role == "user":
                content = merged + content
            encoded.append([run for run in runs + self._fill(role, content, i // 2) if run])
        return encoded

    def _fill(self, slot: str, content: str = "", turn: int = 0) -> list[str]:
        runs: list[str] = []
        for element in self._facts[slot]:
            if isinstance(element, str):
                runs.append(element.replace("{{content}}", content).replace("{{idx}}", str(turn)))
            elif "special" in element:
                # LLaMA-Factory leaves out any other special token.
                specials = {"bos_token": BOS, "eos_token": self._eos}
                runs.append(specials.get(element["special"], ""))
            else:
                runs.append(element["token"])
        return runs

    def _tool_text(self, tools: str | None) -> str:
        if tools is None:
            return ""
        if self._facts["tool_format"] is not None:
            return tool_facts()["formats"][self._facts["tool_format"]][f"tool_text|{tools}"]
        listed = tool_facts()["sample_tools"][: {"one_tool": 1, "two_tools": 2}[tools]]
        (slot,) = self._facts["tools_slot"]
        return slot.replace("{{content}}", json.dumps(listed, ensure_ascii=False))

    def _call_text(self, content: str) -> str:
        """A thought stays ahead of the calls."""
        thought, _, calls = content.rpartition(self._words[1])
        ahead = f"{thought}{self._words[1]}" if thought else ""
        return ahead + tool_facts()["formats"][self._facts["function_format"]][f"call_text|{calls}"]
