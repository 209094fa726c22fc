"""How many lines of batches one gateway has under way, and whose line is next: the projects' in
turn."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Slots:
    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """By project; the first project is next."""

    @asynccontextmanager
    async def slot(self, project_id: str) -> AsyncGenerator[None]:
        await self.take(project_id)
        try:
            yield
        finally:
            self.give_back()

    async def take(self, project_id: str) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(project_id, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back()
            raise

    def give_back(self) -> None:
        while self._waiting:
            project_id, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[project_id] = turns
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
