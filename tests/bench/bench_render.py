"""Rendering and tokenising a chat against `apply_chat_template`, and a training set slot by slot.

    python -m tests.bench render

Chat: a 50-message conversation with tools, to token ids, against transformers'
`apply_chat_template` with the same template and tokenizer. Training: multi-turn examples to ids and
labels, against the way of LLaMA-Factory, which calls the tokenizer once for each slot of each
message. Each pair runs interleaved. The chat's ratio is of the least CPU time of each; the training
set's of the least wall time, for a whole set is tokenised on all cores by one process.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

from transformers import __version__ as transformers_version

from templates.conversation import ChatMessage, Conversation
from templates.registry import open_format
from templates.tokenization import Encoder, describe_tokenizer
from templates.training import encode_training_many
from tests.bench.findings import Finding, record
from tests.templates.conversations import CALLS, RESULT, WEATHER, as_transformers, says
from tests.templates.test_registry import QWEN3
from tests.templates.tokenizers_for_tests import byte_level_tokenizer

ROUNDS = 40
EXAMPLES = 300
PROSE = "The weather in Beijing is nice today, isn't it? I would like to know more about it. "


def chat() -> Conversation:
    messages: list[ChatMessage] = [says("system", "You are a helpful assistant.")]
    for turn in range(12):
        messages += [says("user", f"{turn} {PROSE * 3}"), CALLS, RESULT]
        messages.append(says("assistant", PROSE * 3))
    return Conversation((*messages, says("user", "And now?")), (WEATHER,) * 5)


def examples() -> list[Conversation]:
    return [
        Conversation(
            (
                says("user", f"{number} {PROSE}"),
                says("assistant", PROSE * 2),
                says("user", PROSE),
                says("assistant", PROSE * 3),
            )
        )
        for number in range(EXAMPLES)
    ]


def least_ms(*tasks: Callable[[], object], rounds: int, clock: Callable[[], float]) -> list[float]:
    for task in tasks:
        task()
    least = [float("inf")] * len(tasks)
    for _ in range(rounds):
        for index, task in enumerate(tasks):
            started = clock()
            task()
            least[index] = min(least[index], (clock() - started) * 1e3)
    return least


def slot_by_slot(tokenizer: Any, chat_format: Any, conversation: Conversation) -> object:
    """LLaMA-Factory's way: every slot through `tokenizer.encode`, lists added up."""
    input_ids: list[int] = []
    labels: list[int] = []
    for turn in chat_format.render_training(conversation):
        prompt = _slots(tokenizer, turn.prompt)
        response = _slots(tokenizer, turn.response)
        input_ids += prompt + response
        labels += [-100] * len(prompt) + response
    return input_ids, labels


def _slots(tokenizer: Any, segments: Any) -> list[int]:
    texts: list[str] = []
    for segment in segments:
        if segment.joined and texts:
            texts[-1] += segment.text
        else:
            texts.append(segment.text)
    ids: list[int] = []
    for text in texts:
        ids += tokenizer.encode(text, add_special_tokens=False)
    return ids


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    tokenizer = byte_level_tokenizer()
    encoder = Encoder(tokenizer)
    own = open_format(None, describe_tokenizer(tokenizer, {"default": QWEN3}))
    conversation = chat()
    given = as_transformers(conversation)

    def ours() -> list[int]:
        return encoder.encode(own.render(conversation).segments)

    def theirs() -> list[int]:
        return tokenizer.apply_chat_template(
            **given, chat_template=QWEN3, add_generation_prompt=True
        )["input_ids"]

    if ours() != theirs():
        raise SystemExit("the two prompts differ")
    mine, peer = least_ms(ours, theirs, rounds=ROUNDS, clock=time.process_time)
    out = sys.stdout.write
    out(f"chat of {len(conversation.messages)} messages, {len(ours())} tokens: ")
    out(f"{mine:.2f} ms, apply_chat_template {peer:.2f} ms, {peer / mine:.2f} times faster\n")

    record(
        Finding(
            what="ms to render and tokenise 50 messages with tools",
            ours=mine,
            peer=f"apply_chat_template, transformers {transformers_version}",
            theirs=peer,
            ratio=mine / peer,
            target="below 1",
        )
    )

    named = open_format("qwen3", describe_tokenizer(tokenizer, {}))
    rows = examples()
    encoded = encode_training_many(named, encoder, rows)
    mine, peer = least_ms(
        lambda: encode_training_many(named, encoder, rows),
        lambda: [slot_by_slot(tokenizer, named, row) for row in rows],
        rounds=ROUNDS // 4,
        clock=time.perf_counter,
    )
    tokens = sum(len(example.input_ids) for [example] in encoded)
    out(f"training set of {len(rows)} rows: {tokens / mine:.0f}k tokens per second, ")
    out(f"slot by slot {tokens / peer:.0f}k, {peer / mine:.2f} times faster\n")


if __name__ == "__main__":
    main()
