"""Pretraining: the next token of plain text, all of which is learned."""

from __future__ import annotations

from collections.abc import Sequence

from templates.examples import Example, TextExample, read_example
from workers.trainer.dataset import EncodedRow
from workers.trainer.stages.sft import Supervised, one_each


class Pretraining(Supervised):
    def read(self, line: bytes) -> Example:
        return read_example(line, pretraining=True)

    def encode(self, rows: Sequence[Example], cutoff_len: int) -> list[EncodedRow]:
        texts = [row.text for row in rows if isinstance(row, TextExample)]
        return [one_each(pieces) for pieces in self.encoder.texts(texts, cutoff_len)]
