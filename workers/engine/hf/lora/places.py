"""Which adapters are resident, and at which columns. Belongs to the engine's thread."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from workers.engine.hf.lora.parts import AdaptedLayer
from workers.engine.hf.lora.weights import AdapterWeights


@dataclass(slots=True)
class _Place:
    weights: AdapterWeights
    first: int
    num_users: int = 0

    @property
    def end(self) -> int:
        return self.first + self.weights.rank


class AdapterPlaces:
    """Counts users of each resident adapter; the unused make room, least-recently-used first."""

    def __init__(
        self,
        layers: dict[str, AdaptedLayer],
        max_adapters: int,
        width: int,
        max_whole_bytes: int = 0,
    ) -> None:
        """`max_whole_bytes`: of weights that stand in place of the base's, in all adapters."""
        self._layers = layers
        self._max_adapters = max_adapters
        self._width = width
        self._max_whole_bytes = max_whole_bytes
        self._places: OrderedDict[int, _Place] = OrderedDict()
        self.num_hits = self.num_loads = self.num_evictions = 0

    @property
    def names(self) -> list[str]:
        return [place.weights.name for place in self._places.values()]

    def acquire(self, weights: AdapterWeights) -> bool:
        """Counts a user, loading the adapter if need be; False if all places are in use."""
        if not self.load(weights):
            return False
        self._places[weights.uid].num_users += 1
        return True

    def release(self, weights: AdapterWeights) -> None:
        self._places[weights.uid].num_users -= 1

    def load(self, weights: AdapterWeights) -> bool:
        """Makes the adapter resident; False if all places are in use."""
        place = self._places.get(weights.uid)
        if place is not None:
            self._places.move_to_end(weights.uid)
            self.num_hits += 1
            return True
        first = self._find(weights)
        if first is None:
            return False
        place = _Place(weights, first)
        try:
            for name, part in weights.layers.items():
                self._layers[name].take(place.first, place.end, part)
        except (MemoryError, RuntimeError):
            self._blank(place)
            raise
        self._places[weights.uid] = place
        self.num_loads += 1
        return True

    def unload(self, uid: int) -> bool:
        """False while it is in use."""
        place = self._places.get(uid)
        if place is None:
            return True
        if place.num_users:
            return False
        self._remove(place)
        return True

    def columns(self, weights: AdapterWeights | None) -> tuple[int, int]:
        if weights is None:
            return (0, 0)
        place = self._places[weights.uid]
        return (place.first, place.end)

    def _find(self, weights: AdapterWeights) -> int | None:
        """The first gap wide enough, after evicting what must go and may."""
        while True:
            if len(self._places) < self._max_adapters and self._has_memory(weights):
                first = 0
                for place in sorted(self._places.values(), key=lambda p: p.first):
                    if place.first - first >= weights.rank:
                        break
                    first = place.end
                if first + weights.rank <= self._width:
                    return first
            unused = next((p for p in self._places.values() if not p.num_users), None)
            if unused is None:
                return None
            self._remove(unused)
            self.num_evictions += 1

    def _has_memory(self, weights: AdapterWeights) -> bool:
        if not weights.whole_bytes:
            return True
        held = sum(place.weights.whole_bytes for place in self._places.values())
        return held + weights.whole_bytes <= self._max_whole_bytes

    def _remove(self, place: _Place) -> None:
        self._blank(place)
        del self._places[place.weights.uid]

    def _blank(self, place: _Place) -> None:
        """An adapter with fewer layers or smaller ranks must not inherit what it leaves alone."""
        for layer in self._layers.values():
            layer.blank(place.first, place.end)
