"""Is the chat format that the operator named the one the model was made for? Asked once, at start.

The worker asks because it has the tokenizer: formats are compared by the token ids they give.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from templates.comparison import compare
from templates.format import FormatError, Segment, TokenizerInfo
from templates.registry import OWN_TEMPLATE, open_format
from workers.contract.parts import Text
from workers.engine.spec import EngineSpec, SpecError
from workers.engine.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)


class _Codec:
    """A vocabulary as the comparison wants it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def encode(self, segments: Sequence[Segment]) -> list[int]:
        return self._vocabulary.encode([Text(s.text, s.control, s.joined) for s in segments])

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self._vocabulary.piece, ids)).decode("utf-8", "replace")


def template_difference(spec: EngineSpec, vocabulary: Vocabulary) -> str | None:
    """Where the spec's template first differs from the model's own, for the operator to read; None
    where it does not, or there is nothing to compare. Raises SpecError for a template that there
    is not."""
    if spec.template is None:
        return None
    names = vocabulary.names
    tokenizer = TokenizerInfo(
        bos_token=names.bos_token,
        eos_token=names.eos_token,
        special_tokens=frozenset(names.special_tokens),
        chat_templates=names.chat_templates,
    )
    try:
        named = open_format(spec.template, tokenizer, tuple(map(Path, spec.templates)))
    except FormatError as error:
        raise SpecError(f"template: {error}") from error
    if spec.template.partition(":")[0] == OWN_TEMPLATE:
        return None
    try:
        own = open_format(None, tokenizer)
    except FormatError:
        return None
    comparison = compare(named, own, _Codec(vocabulary))
    if comparison.same:
        return None
    first, total = comparison.differences[0], len(comparison.compared)
    message = (
        f"The template '{spec.template}' differs from the model's own in "
        f"{len(comparison.differences)} of {total} sample conversations; {first}. "
        "Leave `template` out of the entry to use the model's own."
    )
    log.warning("template differs", extra={"model": spec.model_id, "difference": message})
    return message
