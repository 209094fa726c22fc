"""How much usage is kept while the store takes none."""

from __future__ import annotations

from pathlib import Path

from server.auth import Principal
from server.store import open_store
from server.store.records import Project
from server.usage import Accountant, Tally
from tests.faults.test_locked_store import write_lock


async def test_usage_that_is_not_kept_is_counted(tmp_path: Path) -> None:
    store = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'tuneyard.db'}")
    accountant = Accountant(store.usage, max_kept=20)
    caller = Principal("key", Project("proj", "Acme", "acme", 1))
    with write_lock(tmp_path / "tuneyard.db"):
        for number in range(20):
            accountant.record(caller, f"model {number}", Tally())
        assert accountant.num_unwritten == 20
        for _ in range(3):
            accountant.record(caller, "one model more", Tally(prompt_tokens=5, completion_tokens=2))
        assert accountant.dropped == {"requests": 3, "tokens": 21}
        accountant.record(caller, "model 0", Tally())
        assert accountant.num_unwritten == 20 + 1
        assert accountant.served["prompt"] == 15
    await accountant.close()
    assert accountant.num_unwritten == 0
    await store.close()
