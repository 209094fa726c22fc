"""Who runs in the next step: admission in order of rank, chunks of prompts, preemption.

A sequence is admitted when there is a row, an adapter place and room for its keys and values as
they are now; when a running batch outgrows the memory, the youngest goes back to the queue and is
computed anew later. One sequence always fits, so the oldest always gets on.

Spare sequences come after all others: they are admitted when nobody else waits for what they need,
and one that runs goes back to the queue as soon as another needs its row, memory or adapter place.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

from workers.engine.hf.lora.places import AdapterPlaces
from workers.engine.hf.prefixes import Rows
from workers.engine.hf.sequence import Sequence
from workers.engine.hf.waiting import Waiting, youngest_spare

_HEADROOM_TOKENS = 32
"""Room beyond its prompt that a sequence must find to be admitted, lest it be preempted at once."""
_MAX_PASSED = 256
"""How many younger sequences may go ahead of one that waits for an adapter place."""


class _Verdict(Enum):
    ADMITTED = auto()
    NO_MEMORY = auto()
    NO_PLACE = auto()
    PREFIX_COMING = auto()


@dataclass(slots=True)
class Slice:
    """Tokens `start` to `end` of a sequence, to be computed in this step."""

    sequence: Sequence
    start: int
    end: int

    @property
    def completes(self) -> bool:
        """The next token can be sampled after this."""
        return self.end == len(self.sequence.tokens)


@dataclass(slots=True)
class Step:
    decode: list[Slice]
    chunks: list[Slice]


class Scheduler:
    def __init__(
        self,
        rows: Rows,
        places: AdapterPlaces | None,
        *,
        max_rows: int,
        prefill_tokens: int,
    ) -> None:
        self._rows = rows
        self._places = places
        self._max_rows = max_rows
        self._prefill_tokens = prefill_tokens
        self._num_passed = 0
        self.waiting = Waiting()
        self.admitting: Sequence | None = None
        """Whose admission raised, if one did: an allocation may fail there."""

    @property
    def active(self) -> list[Sequence]:
        return self._rows.active

    def admit(self) -> list[Sequence]:
        """Those whose whole prompt another has computed: their first tokens can be sampled at once,
        and must be before `plan`."""
        self._grow()
        self._admit()
        self._rows.tidy()
        return [sequence for sequence in self.active if not sequence.num_missing]

    def plan(self) -> Step:
        decode: list[Slice] = []
        chunks: list[Slice] = []
        budget = self._prefill_tokens
        prefilling: list[Sequence] = []
        for sequence in self._rows.in_order:
            start = sequence.row.num_computed
            if sequence.num_missing == 1 and start:
                decode.append(Slice(sequence, start, start + 1))
            else:
                prefilling.append(sequence)
        for sequence in sorted(prefilling, key=lambda sequence: sequence.rank):
            if budget <= 0:
                break
            start = sequence.row.num_computed
            end = start + min(sequence.num_missing, budget)
            if sequence.media is not None:
                end = sequence.media.whole_end(start, end)
            budget -= end - start
            chunks.append(Slice(sequence, start, end))
        return Step(decode, chunks)

    def finish(self, sequence: Sequence) -> None:
        """A running sequence has ended; its row may serve others that begin alike."""
        self._leave(sequence, keep=True)

    def drop(self, sequence: Sequence) -> None:
        """A running or waiting sequence is no longer wanted."""
        if sequence is self.admitting:
            self.admitting = None
        if not self.waiting.remove(sequence):
            self._leave(sequence, keep=True)

    def preempt_youngest(self) -> Sequence:
        """The youngest of the spare ones, or else of all."""
        youngest = max(self.active, key=lambda sequence: sequence.rank)
        self._preempt(youngest, keep=False)
        return youngest

    def _preempt(self, sequence: Sequence, *, keep: bool) -> None:
        """Back to the queue with what it has; frees its row."""
        self._leave(sequence, keep=keep)
        sequence.restart()
        self.waiting.put_back(sequence)

    def _leave(self, sequence: Sequence, *, keep: bool) -> None:
        self._rows.remove(sequence, keep=keep)
        self._release_place(sequence)

    def _release_place(self, sequence: Sequence) -> None:
        if sequence.adapter is not None and self._places is not None:
            self._places.release(sequence.adapter)

    def _grow(self) -> None:
        """Room for one more token of every running sequence, preempting if there is none."""
        while True:
            wanted = [(s.row, len(s.tokens)) for s in self.active if len(s.tokens) > s.row.length]
            if not wanted or self._rows.reserve(wanted):
                return
            self.preempt_youngest()

    def _admit(self) -> None:
        """Memory goes by order of arrival; whoever waits for an adapter place or for a beginning
        under computation is passed by, the former a limited number of times."""
        if self._admit_from(self.waiting.ordinary, displaces=True) and self.waiting.spare:
            self._admit_from(self.waiting.spare, displaces=False)

    def _admit_from(self, waiting: deque[Sequence], *, displaces: bool) -> bool:
        """False where somebody goes on waiting for a row or for memory."""
        passed: list[Sequence] = []
        try:
            return self._admit_some(waiting, passed, displaces=displaces)
        finally:
            waiting.extendleft(reversed(passed))

    def _admit_some(
        self, waiting: deque[Sequence], passed: list[Sequence], *, displaces: bool
    ) -> bool:
        waits_for_place = False
        while waiting:
            if self._rows.num_active >= self._max_rows and not (displaces and self._displace()):
                return False
            sequence = waiting.popleft()
            passed.append(sequence)
            self.admitting = sequence
            verdict = self._try(sequence)
            while displaces and self._makes_way(verdict):
                verdict = self._try(sequence)
            self.admitting = None
            if verdict is _Verdict.ADMITTED:
                passed.pop()
                self._num_passed = self._num_passed + 1 if waits_for_place else 0
                continue
            waits_for_place |= verdict is _Verdict.NO_PLACE
            must_wait = waits_for_place and self._num_passed >= _MAX_PASSED
            if verdict is _Verdict.NO_MEMORY or must_wait:
                return False
        return True

    def _makes_way(self, verdict: _Verdict) -> bool:
        """Whether a spare sequence has given up what is lacking, or some of it."""
        if verdict is _Verdict.NO_MEMORY:
            return self._displace()
        return verdict is _Verdict.NO_PLACE and self._displace(holds_place=True)

    def _displace(self, *, holds_place: bool = False) -> bool:
        """Preempts the youngest spare sequence; with `holds_place`, one whose adapter no other
        than spare ones use. False if there is none."""
        running = self.active
        if holds_place:
            wanted = {s.adapter_uid for s in running if not s.work.is_spare}
            running = [s for s in running if s.adapter is not None and s.adapter_uid not in wanted]
        youngest = youngest_spare(running)
        if youngest is None:
            return False
        self._preempt(youngest, keep=True)
        return True

    def _try(self, sequence: Sequence) -> _Verdict:
        shared = self._rows.find_shared(sequence) if sequence.prompt_scores is None else None
        if shared is not None and not shared.is_ready:
            return _Verdict.PREFIX_COMING
        num_tokens = len(sequence.tokens)
        at_most = sequence.num_prompt + sequence.work.max_tokens
        if not self._rows.has_room(min(num_tokens + _HEADROOM_TOKENS, at_most)):
            return _Verdict.NO_MEMORY
        adapter = sequence.adapter
        if adapter is not None and self._places is not None and not self._places.acquire(adapter):
            return _Verdict.NO_PLACE
        is_placed = False
        try:
            is_placed = self._rows.reserve([(sequence.row, min(num_tokens + 1, at_most))])
        finally:
            if not is_placed:
                self._release_place(sequence)
        if not is_placed:
            return _Verdict.NO_MEMORY
        if shared is not None:
            shared = self._rows.find_shared(sequence)  # making room may have cost the row
        self._rows.add(sequence, shared)
        return _Verdict.ADMITTED
