"""Structured outputs through xgrammar: compile once, mask every step.

A grammar comes here once it is known to compile in time (see `grammar_checks`). Compiling runs on a
few threads and is cached by xgrammar. A matcher belongs to one sequence and to the engine's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import xgrammar
from torch import Tensor

from workers.contract.parts import Grammar
from workers.engine.grammar_checks import NUM_LONG, NUM_SHORT, GrammarChecks
from workers.engine.grammars import compiled_by, invalid, reason_of
from workers.engine.text.pretrained import PretrainedVocabulary

_CACHE_BYTES = 256 * 1024 * 1024
MAX_MASK_S = 0.25
"""Processor time of one mask, beyond which a sequence ends."""


@dataclass(slots=True)
class GrammarState:
    """How far one sequence's output has come in its grammar."""

    matcher: Any
    ends_itself: bool
    """No stop token may end the output, so the end of the grammar does."""
    is_too_slow: bool = False

    def accept(self, token_id: int) -> bool:
        return self.matcher.accept_token(token_id)

    @property
    def is_complete(self) -> bool:
        return self.ends_itself and self.matcher.is_terminated()

    def fill(self, bitmask: Tensor, index: int) -> None:
        started = time.thread_time()
        self.matcher.fill_next_token_bitmask(bitmask, index)
        self.is_too_slow = time.thread_time() - started > MAX_MASK_S


class GrammarCompiler:
    def __init__(self, vocabulary: PretrainedVocabulary) -> None:
        info = xgrammar.TokenizerInfo.from_huggingface(
            vocabulary.tokenizer,
            vocab_size=vocabulary.size,
            stop_token_ids=sorted(vocabulary.eos_ids) or None,
        )
        self._compiler = xgrammar.GrammarCompiler(
            info, max_threads=1, cache_limit_bytes=_CACHE_BYTES
        )
        self.checks = GrammarChecks(vocabulary)
        self._threads = ThreadPoolExecutor(NUM_SHORT, thread_name_prefix="grammar")
        self._slow_threads = ThreadPoolExecutor(NUM_LONG, thread_name_prefix="slow-grammar")
        self._vocab_size = vocabulary.size

    async def compile(self, grammar: Grammar, stop_ids: frozenset[int]) -> GrammarState:
        """Raises RefusedError."""
        checked = await self.checks.check(grammar)
        threads = self._slow_threads if checked.is_slow else self._threads
        work = partial(self._compile, checked.grammar, stop_ids)
        return await asyncio.get_running_loop().run_in_executor(threads, work)

    def _compile(self, simple: Grammar, stop_ids: frozenset[int]) -> GrammarState:
        """Raises RefusedError."""
        try:
            matcher = xgrammar.GrammarMatcher(
                compiled_by(self._compiler, simple),
                override_stop_tokens=sorted(stop_ids) or None,
                terminate_without_stop_token=not stop_ids,
            )
        except (RuntimeError, ValueError, TypeError) as error:
            raise invalid(f"The grammar cannot be compiled: {reason_of(error)}") from error
        return GrammarState(matcher, ends_itself=not stop_ids)

    def mask(self, logits: Tensor, rows: Sequence[int], states: Sequence[GrammarState]) -> None:
        """Blanks in each of `rows` what its grammar does not allow next."""
        bitmask = xgrammar.allocate_token_bitmask(len(rows), self._vocab_size)
        for index, state in enumerate(states):
            state.fill(bitmask, index)
        if len(rows) == logits.shape[0]:
            xgrammar.apply_token_bitmask_inplace(logits, bitmask.to(logits.device))
            return
        where = torch.tensor(rows, device=logits.device)
        chosen = logits[where]
        xgrammar.apply_token_bitmask_inplace(chosen, bitmask.to(logits.device))
        logits[where] = chosen

    def close(self) -> None:
        self.checks.close()
        for threads in (self._threads, self._slow_threads):
            threads.shutdown(wait=False, cancel_futures=True)
