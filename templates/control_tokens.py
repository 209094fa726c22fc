"""Which tokens of a vocabulary act as control; a tokenizer in which content cannot spell them."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any, cast

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import Unigram

from templates.control_words import acts_as_control


def control_tokens(tokenizer: Tokenizer) -> dict[int, AddedToken]:
    """By id, as `templates.control_words` tells them."""
    unknown = _unknown_token(tokenizer)
    return {
        token_id: token
        for token_id, token in tokenizer.get_added_tokens_decoder().items()
        if acts_as_control(token.content, token.special, unknown)
    }


def _unknown_token(tokenizer: Tokenizer) -> str | None:
    model = tokenizer.model
    if isinstance(model, Unigram):
        unknown_id = json.loads(model.__getstate__())["unk_id"]
        return None if unknown_id is None else tokenizer.id_to_token(unknown_id)
    return getattr(model, "unk_token", None)


@dataclass(frozen=True, slots=True)
class GuardedTokenizer:
    """A copy of a tokenizer in which the control tokens have names drawn at random."""

    tokenizer: Tokenizer
    names: dict[int, str]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> GuardedTokenizer:
        nonce = secrets.token_hex(16)
        names = {i: f"\ue000{nonce}{i}\ue001" for i in control_tokens(tokenizer)}
        state = json.loads(tokenizer.to_str())
        renamed = {
            token["content"]: names[token["id"]]
            for token in state["added_tokens"]
            if token["id"] in names
        }
        for token in state["added_tokens"]:
            if token["id"] in names:
                token["content"] = names[token["id"]]
                token["normalized"] = False
        state["post_processor"] = None
        _rename_pieces(state["model"], renamed)
        copy = Tokenizer.from_str(json.dumps(state))
        if any(copy.token_to_id(name) != token_id for token_id, name in names.items()):
            raise ValueError("the tokenizer's control tokens cannot be told apart from content")
        return cls(copy, names)


def _rename_pieces(model: dict[str, Any], renamed: dict[str, str]) -> None:
    """Renames vocabulary entries, so that no merging of characters leads to them."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        entries = cast(dict[str, int], vocabulary).items()
        model["vocab"] = {renamed.get(piece, piece): i for piece, i in entries}
    else:
        model["vocab"] = [[renamed.get(piece, piece), score] for piece, score in vocabulary]
    if "merges" in model:
        pairs = ((m.split(" ") if isinstance(m, str) else m) for m in model["merges"])
        model["merges"] = [
            [left, right]
            for left, right in pairs
            if renamed.keys().isdisjoint((left, right, left + right))
        ]
