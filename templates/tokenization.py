"""Segments to token ids, the one way used by engines and trainers alike.

Invariants:
* Special and added tokens are recognised in control text only. Content that spells one
  (`<|im_end|>`, `<tool_call>`) is tokenised as ordinary characters.
* A run of joined segments is tokenised as one text, so that a prompt whose content spells no
  special token has the very ids of tokenising its whole text at once.
* Nothing is put around a run; a whole raw prompt alone gets what the tokenizer adds to a text.

Works on the `tokenizers` library alone. It takes a Hugging Face fast tokenizer, whose
`backend_tokenizer` it uses, or a `tokenizers.Tokenizer`, without importing transformers or torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

from tokenizers import Tokenizer

from templates.control_tokens import GuardedTokenizer, control_tokens
from templates.format import TokenizerInfo

MAX_CACHED_CONTROL_TEXTS = 4096


@runtime_checkable
class TextLike(Protocol):
    """What `templates.format.Segment` and `workers.contract` `Text` have in common. The latter can
    also be `whole`."""

    @property
    def text(self) -> str: ...
    @property
    def control(self) -> bool: ...
    @property
    def joined(self) -> bool: ...


@runtime_checkable
class IdsLike(Protocol):
    """`workers.contract` `Tokens`: ids used as they are."""

    @property
    def ids(self) -> list[int]: ...


PromptPart = TextLike | IdsLike


class MediaNotEncodedError(ValueError):
    """A media segment reached the text encoder; only a model's processor can expand it."""


@dataclass(frozen=True, slots=True)
class _Whole:
    text: str


class _Run(NamedTuple):
    """Texts tokenised as one: (text, is control) in order, no two neighbours of one kind. A tuple,
    for a training set hashes one for each side of each turn."""

    pieces: tuple[tuple[str, bool], ...]

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.pieces)


class Encoder:
    """Encodes prompts for one tokenizer. Thread-safe once built."""

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not isinstance(backend, Tokenizer):
            raise TypeError("the encoder needs a fast tokenizer (one with a tokenizer.json)")
        if backend.padding is not None or backend.truncation is not None:
            backend = Tokenizer.from_str(backend.to_str())
            backend.no_padding()
            backend.no_truncation()
        self._tokenizer = backend
        self._added = control_tokens(backend)
        self._added_ids = frozenset(self._added)
        words = [token.content for token in self._added.values()]
        self._longest = max(map(len, words), default=0)
        self._prefixes = frozenset(word[:n] for word in words for n in range(1, len(word)))
        self._starts = frozenset(word[0] for word in words)
        self._control_counts: dict[str, int] = {}
        self.bos_token_id = _token_id(tokenizer, "bos_token", backend)
        self.eos_token_id = _token_id(tokenizer, "eos_token", backend)

    @property
    def control_words(self) -> frozenset[str]:
        """The texts that act as control where control text spells them."""
        return frozenset(token.content for token in self._added.values())

    @property
    def control_ids(self) -> frozenset[int]:
        return self._added_ids

    def encode(self, parts: Sequence[PromptPart]) -> list[int]:
        """The token ids of a prompt."""
        return self.encode_many([parts])[0]

    def encode_many(self, prompts: Iterable[Sequence[PromptPart]]) -> list[list[int]]:
        """The token ids of many prompts: one call into the tokenizer, on all cores, in which a run
        that comes several times (a system message, a list of tools) is tokenised once."""
        layouts = [_layout(parts) for parts in prompts]
        runs = dict.fromkeys(
            item for layout in layouts for item in layout if isinstance(item, _Run)
        )
        texts = [run.text for run in runs]
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        encoded = {
            run: self._checked(run, encoding.ids)
            for run, encoding in zip(runs, encodings, strict=True)
        }
        result: list[list[int]] = []
        for layout in layouts:
            if len(layout) == 1 and isinstance(layout[0], _Run):
                result.append(encoded[layout[0]].copy())
                continue
            ids: list[int] = []
            for item in layout:
                if isinstance(item, _Run):
                    ids += encoded[item]
                elif isinstance(item, _Whole):
                    ids += self._tokenizer.encode(item.text).ids
                else:
                    ids += item
            result.append(ids)
        return result

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, control tokens included."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def _checked(self, run: _Run, ids: list[int]) -> list[int]:
        """`ids` of the run's whole text, unless its content took part in a control token."""
        pieces = run.pieces
        if len(pieces) == 1 and pieces[0][1]:
            return ids
        expected = 0
        for text, control in pieces:
            if control:
                expected += self._control_count(text)
        is_added = self._added_ids.__contains__
        if sum(map(is_added, ids)) == expected and not self._may_cross(pieces):
            return ids
        return self._encode_guarded(run)

    def _control_count(self, text: str) -> int:
        count = self._control_counts.get(text)
        if count is None:
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
            count = sum(map(self._added_ids.__contains__, ids))
            if len(self._control_counts) < MAX_CACHED_CONTROL_TEXTS:
                self._control_counts[text] = count
        return count

    def _may_cross(self, pieces: tuple[tuple[str, bool], ...]) -> bool:
        """Whether an added token could begin in a piece and end in the next one."""
        for text, _ in pieces[:-1]:
            tail = text[-self._longest :]
            if self._starts.isdisjoint(tail):
                continue
            for start in range(len(tail)):
                if tail[start] in self._starts and tail[start:] in self._prefixes:
                    return True
        return False

    def _encode_guarded(self, run: _Run) -> list[int]:
        """Encodes with every control token under a name that content cannot spell."""
        guarded = self._guarded
        text = "".join(
            self._renamed(text, guarded.names) if control else text for text, control in run.pieces
        )
        return guarded.tokenizer.encode(text, add_special_tokens=False).ids

    def _renamed(self, text: str, names: dict[int, str]) -> str:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        parts: list[str] = []
        position = 0
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token_id in self._added:
                parts += [text[position:start], names[token_id]]
                position = end
        return "".join([*parts, text[position:]])

    @cached_property
    def _guarded(self) -> GuardedTokenizer:
        return GuardedTokenizer.of(self._tokenizer)


def _layout(parts: Sequence[PromptPart]) -> list[_Run | _Whole | list[int]]:
    """Groups parts to runs; ids and whole prompts stay as they are and end a run."""
    layout: list[_Run | _Whole | list[int]] = []
    pieces: list[tuple[str, bool]] = []

    def close() -> None:
        if pieces:
            layout.append(_Run(tuple(pieces)))
            pieces.clear()

    for part in parts:
        ids = getattr(part, "ids", None)
        if ids is not None:
            close()
            layout.append(list(ids))
            continue
        if getattr(part, "media", None) is not None:
            raise MediaNotEncodedError("the prompt holds media, which this model cannot read")
        part = cast(TextLike, part)
        if getattr(part, "whole", False):
            close()
            layout.append(_Whole(part.text))
            continue
        if not part.joined:
            close()
        if not part.text:
            continue
        if pieces and pieces[-1][1] == part.control:
            pieces[-1] = (pieces[-1][0] + part.text, part.control)
        else:
            pieces.append((part.text, part.control))
    close()
    return layout


def _token_id(tokenizer: Any, name: str, backend: Tokenizer) -> int | None:
    text = getattr(tokenizer, name, None)
    return backend.token_to_id(str(text)) if text is not None else None


def describe_tokenizer(
    tokenizer: Any, chat_templates: dict[str, str] | None = None
) -> TokenizerInfo:
    """What a chat format must know of a Hugging Face fast tokenizer. Templates default to the
    tokenizer's own `chat_template` (a text, or several by name)."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if chat_templates is None:
        own = getattr(tokenizer, "chat_template", None)
        chat_templates = {"default": own} if isinstance(own, str) else dict(own or {})
    words = (token.content for token in control_tokens(backend).values())
    return TokenizerInfo(
        bos_token=_text_or_none(getattr(tokenizer, "bos_token", None)),
        eos_token=_text_or_none(getattr(tokenizer, "eos_token", None)),
        special_tokens=frozenset(words),
        chat_templates=chat_templates,
    )


def _text_or_none(token: object) -> str | None:
    return None if token is None else str(token)
