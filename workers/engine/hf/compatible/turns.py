"""Whose turn it is: sequences are admitted in order of arrival and get a token each in turn, so a
long answer does not hold back the others."""

from __future__ import annotations

from workers.engine.hf.compatible.caches import OwnCache
from workers.engine.hf.compatible.memory import CacheMemory
from workers.engine.hf.loaded import LoadedModel
from workers.engine.hf.lora.places import AdapterPlaces
from workers.engine.hf.scheduler import Slice, Step
from workers.engine.hf.sequence import Sequence
from workers.engine.hf.waiting import Waiting, youngest_spare


class Turns:
    """Scheduler and rows of the engine in one: nothing is kept of a sequence that has ended."""

    shares_prompts = False

    def __init__(
        self,
        loaded: LoadedModel,
        places: AdapterPlaces | None,
        memory: CacheMemory,
        *,
        max_sequences: int,
    ) -> None:
        self._model = loaded.model
        self._places = places
        self._memory = memory
        self._max_sequences = max_sequences
        self._caches: dict[int, OwnCache] = {}
        self.waiting = Waiting()
        self.active: list[Sequence] = []
        """Whose turn is next stands first."""
        self.admitting: Sequence | None = None

    @property
    def usage(self) -> float:
        return sum(map(self._needed, self.active)) / self._memory.budget_bytes

    def cache_of(self, sequence: Sequence) -> OwnCache:
        cache = self._caches.get(sequence.work.key)
        if cache is None:
            cache = self._caches[sequence.work.key] = OwnCache(self._model)
        return cache

    def restart(self, sequence: Sequence) -> None:
        """What its cache holds is not known: it is computed anew."""
        self._caches.pop(sequence.work.key, None)
        sequence.restart()

    @property
    def num_active(self) -> int:
        return len(self.active)

    def admit(self) -> list[Sequence]:
        """Of none is the prompt computed by another."""
        for queue in (self.waiting.ordinary, self.waiting.spare):
            while queue:
                if self._admit(queue[0]):
                    self.active.append(queue.popleft())
                elif queue is self.waiting.spare or not self._displace():
                    return []
        return []

    def _displace(self) -> bool:
        """Puts the youngest spare sequence back into the queue; False if there is none."""
        youngest = youngest_spare(self.active)
        if youngest is None:
            return False
        self._leave(youngest)
        youngest.restart()
        self.waiting.put_back(youngest)
        return True

    def plan(self) -> Step:
        if not self.active:
            return Step([], [])
        first = (n for n, waits in enumerate(self.active) if not waits.work.is_spare)
        sequence = self.active.pop(next(first, 0))
        self.active.append(sequence)
        start = sequence.row.num_computed
        part = Slice(sequence, start, len(sequence.tokens))
        return Step([part], []) if start else Step([], [part])

    def finish(self, sequence: Sequence) -> None:
        self.drop(sequence)

    def drop(self, sequence: Sequence) -> None:
        if sequence is self.admitting:
            self.admitting = None
        if not self.waiting.remove(sequence):
            self._leave(sequence)

    def _leave(self, sequence: Sequence) -> None:
        self.active.remove(sequence)
        self._caches.pop(sequence.work.key, None)
        if sequence.adapter is not None and self._places is not None:
            self._places.release(sequence.adapter)

    def forget_kept(self, adapter_uid: int | None = None) -> None:
        """Nothing is kept."""

    def _admit(self, sequence: Sequence) -> bool:
        if len(self.active) >= self._max_sequences:
            return False
        needed = sum(map(self._needed, [*self.active, sequence]))
        if self.active and needed > self._memory.budget_bytes:
            return False
        self.admitting = sequence
        adapter = sequence.adapter
        if adapter is not None and self._places is not None and not self._places.acquire(adapter):
            self.admitting = None
            return False
        self.admitting = None
        return True

    def _needed(self, sequence: Sequence) -> int:
        return self._memory.needed(sequence.num_prompt + sequence.work.max_tokens)
