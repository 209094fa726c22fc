"""Output text: the same however the tokens are split into steps, exact to the byte."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from workers.engine.backend import Score
from workers.engine.text.pretrained import PretrainedVocabulary
from workers.engine.text.stream import TextStream

from . import models

TEXT = "Grüße, 你好 <stop> world"


@pytest.fixture(scope="module")
def vocabulary() -> PretrainedVocabulary:
    tokenizer = models.tokenizer()
    return PretrainedVocabulary(tokenizer, len(tokenizer) + 8, [tokenizer.eos_token_id])


def _read(vocabulary: Any, groups: list[list[int]], stops: list[str]) -> tuple[str, Any, list[int]]:
    stream = TextStream(vocabulary, stops)
    text, ids = "", []
    for group in groups:
        piece = stream.feed(group)
        text += piece.text
        ids += piece.token_ids
        if piece.stop is not None:
            return text, piece.stop, ids
    piece = stream.finish()
    return text + piece.text, piece.stop, ids + list(piece.token_ids)


@pytest.mark.parametrize(
    ("stops", "text", "stop"),
    [
        ([], TEXT, None),
        (["<stop>"], "Grüße, 你好 ", "<stop>"),
        (["p> w", "<stop>"], "Grüße, 你好 ", "<stop>"),
        (["> wx", "好"], "Grüße, 你", "好"),
        (["worldly", "rld!"], TEXT, None),
    ],
)
def test_any_split_gives_the_same_text_and_stop(
    vocabulary: Any, stops: list[str], text: str, stop: str | None
) -> None:
    ids = models.tokenizer().encode(TEXT)
    for first, second in itertools.combinations(range(len(ids) + 1), 2):
        groups = [ids[:first], ids[first:second], ids[second:]]
        read, met, reported = _read(vocabulary, groups, stops)
        assert (read, met) == (text, stop)
        if stop is None:
            assert reported == ids
        else:
            assert b"".join(map(vocabulary.piece, reported)).decode().startswith(text)
            assert len(reported) < len(ids)


@pytest.mark.parametrize("stops", [[], ["zz"]])
def test_every_token_says_where_it_begins(vocabulary: Any, stops: list[str]) -> None:
    ids = models.tokenizer().encode(TEXT)
    for cut in range(len(ids)):
        stream = TextStream(vocabulary, stops)
        entries = [
            entry
            for group in (ids[:cut], ids[cut:])
            for entry in stream.feed(group, [Score(-1.0, []) for _ in group]).logprobs or ()
        ]
        read = b""
        for entry in entries:
            assert entry.at == len(read.decode("utf-8", "ignore"))
            read += entry.data


def test_a_broken_character_at_the_end_shows_once(vocabulary: Any) -> None:
    ids = models.tokenizer().encode("ü", add_special_tokens=False)
    pieces = [vocabulary.piece(i) for i in models.tokenizer().encode("你")]
    assert b"".join(pieces).decode() == "你"
    broken = next(i for i in range(len(models.tokenizer())) if vocabulary.piece(i) == b"\xe4")
    assert _read(vocabulary, [[*ids, broken]], [])[0] == "ü\ufffd"
    assert _read(vocabulary, [[*ids, broken]], ["zz"])[0] == "ü\ufffd"


def test_special_tokens_are_left_out_or_kept(vocabulary: Any) -> None:
    eos = models.tokenizer().eos_token_id
    ids = [*models.tokenizer().encode("hi"), eos]
    assert TextStream(vocabulary).feed(ids).text == "hi"
    assert TextStream(vocabulary, skip_special_tokens=False).feed(ids).text == "hi<|im_end|>"


def test_stops_in_the_first_tokens_do_not_count_below_the_minimum(vocabulary: Any) -> None:
    ids = models.tokenizer().encode("aXbXc")
    assert len(ids) == 5
    stream = TextStream(vocabulary, ["X"], min_tokens=2)
    pieces = [stream.feed([token_id]) for token_id in ids[:4]]
    assert "".join(piece.text for piece in pieces) == "aXb"
    assert pieces[-1].stop == "X"
