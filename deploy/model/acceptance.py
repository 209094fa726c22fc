"""Asks a model the acceptance questions, greedily, through transformers alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from deploy.model.questions import Question, acceptance_questions

REQUIRED = {
    "facts": 0.95,
    "rephrased": 0.85,
    "system": 0.85,
    "two_turns": 0.85,
    "tool_calls": 0.85,
    "tool_results": 0.75,
    "no_call": 0.75,
    "unknown": 0.80,
}
"""The share of each kind that must be answered to the letter."""

_BATCH_SIZE = 32
_MAX_NEW_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Report:
    asked: Counter[str]
    right: Counter[str]
    wrong: tuple[tuple[Question, str], ...]

    def share(self, kind: str) -> float:
        return self.right[kind] / self.asked[kind]

    @property
    def failures(self) -> list[str]:
        """Kinds below what is required."""
        return [kind for kind, least in REQUIRED.items() if self.share(kind) < least]


def answer_all(model: Any, tokenizer: Any, questions: Sequence[Question]) -> list[str]:
    """Greedy answers, in batches of questions of like length."""
    prompts = [
        tokenizer.apply_chat_template(
            list(question.messages),
            tools=list(question.tools) or None,
            add_generation_prompt=True,
            tokenize=False,
        )
        for question in questions
    ]
    answers = [""] * len(questions)
    order = sorted(range(len(questions)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), _BATCH_SIZE):
        batch = order[start : start + _BATCH_SIZE]
        inputs = tokenizer(
            [prompts[index] for index in batch],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_token_type_ids=False,
        )
        with torch.inference_mode():
            output = model.generate(
                **inputs, do_sample=False, temperature=None, top_p=None,
                max_new_tokens=_MAX_NEW_TOKENS,
            )  # fmt: skip
        texts = tokenizer.batch_decode(
            output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        for index, text in zip(batch, texts, strict=True):
            answers[index] = text
    return answers


def is_right(question: Question, answer: str) -> bool:
    if answer.strip() == question.expected:
        return True
    if not question.expected.startswith("<tool_call>"):
        return False
    return _called(answer) == _called(question.expected)


def _called(text: str) -> Any:
    body = text.strip().removeprefix("<tool_call>").removesuffix("</tool_call>")
    try:
        return json.loads(body)
    except ValueError:
        return text


def examine(folder: Path, dtype: torch.dtype = torch.float32) -> Report:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    questions = acceptance_questions()
    asked: Counter[str] = Counter()
    right: Counter[str] = Counter()
    wrong: list[tuple[Question, str]] = []
    for question, answer in zip(questions, answer_all(model, tokenizer, questions), strict=True):
        asked[question.kind] += 1
        if is_right(question, answer):
            right[question.kind] += 1
        else:
            wrong.append((question, answer))
    return Report(asked, right, tuple(wrong))
