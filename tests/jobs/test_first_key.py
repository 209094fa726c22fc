from __future__ import annotations

import stat
from pathlib import Path

from server.first_key import ensure_first_key
from server.store import Store
from server.store.keys import hash_key


async def test_a_made_key_is_shown_again_and_readable_by_its_owner_only(
    store: Store, tmp_path: Path
) -> None:
    first = await ensure_first_key(store, tmp_path, None)
    assert first.plain is not None
    assert await store.keys.find(hash_key(first.plain)) == first.record
    assert stat.S_IMODE((tmp_path / "first_key").stat().st_mode) == 0o600
    assert await ensure_first_key(store, tmp_path, None) == first


async def test_an_operators_key_is_used_and_not_written_down(store: Store, tmp_path: Path) -> None:
    first = await ensure_first_key(store, tmp_path, "sk-mine")
    assert first.plain == "sk-mine"
    assert not (tmp_path / "first_key").exists()
    later = await ensure_first_key(store, tmp_path, None)
    assert later.plain is None
    assert later.record == first.record


async def test_a_changed_operators_key_ends_the_one_before_and_no_other(
    store: Store, tmp_path: Path
) -> None:
    made = await ensure_first_key(store, tmp_path, None)
    assert made.plain is not None
    await ensure_first_key(store, tmp_path, "sk-mine")
    await ensure_first_key(store, tmp_path, "sk-another")
    assert await store.keys.find(hash_key("sk-mine")) is None
    assert await store.keys.find(hash_key("sk-another")) is not None
    assert await store.keys.find(hash_key(made.plain)) == made.record
    await ensure_first_key(store, tmp_path, "sk-mine")
    assert await store.keys.find(hash_key("sk-mine")) is not None
    assert await store.keys.find(hash_key("sk-another")) is None


async def test_a_revoked_first_key_stays_so_and_another_is_made(
    store: Store, tmp_path: Path
) -> None:
    first = await ensure_first_key(store, tmp_path, None)
    assert await store.keys.revoke(first.record.id)
    second = await ensure_first_key(store, tmp_path, None)
    assert second.plain not in (None, first.plain)
    assert await ensure_first_key(store, tmp_path, None) == second
