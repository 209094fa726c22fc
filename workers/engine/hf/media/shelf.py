"""Features of media that may come again: a conversation sends its pictures with every turn."""

from __future__ import annotations

from collections import OrderedDict

from workers.engine.hf.media.reading import Features


class FeatureShelf:
    """The least recently used go first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._kept: OrderedDict[bytes, Features] = OrderedDict()

    def get(self, key: bytes) -> Features | None:
        features = self._kept.get(key)
        if features is not None:
            self._kept.move_to_end(key)
        return features

    def put(self, key: bytes, features: Features) -> None:
        if key in self._kept or features.num_bytes > self._max_bytes:
            return
        self._kept[key] = features
        self._num_bytes += features.num_bytes
        while self._num_bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._num_bytes -= oldest.num_bytes
