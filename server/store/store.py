"""The store as a whole: one database, one part per subject."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError

from server.blobs.storage import StorageFullError
from server.store.admin_keys import AdminKeys
from server.store.aliases import Aliases
from server.store.audit import AuditLog
from server.store.background_responses import BackgroundResponses
from server.store.batches import Batches
from server.store.configured_adapters import ConfiguredAdapters
from server.store.counts import StoredCounts, count_stored
from server.store.database import Database
from server.store.engines import Engines
from server.store.faults import StoreUnusableError
from server.store.files import Files
from server.store.idempotency import Replays
from server.store.jobs import Jobs
from server.store.keys import Keys
from server.store.migrate import migrate
from server.store.models import Models
from server.store.passing_faults import StoreUnavailableError
from server.store.permissions import Permissions
from server.store.progress import Progress
from server.store.projects import Projects
from server.store.responses import Responses
from server.store.stored_completions import StoredCompletions
from server.store.uploads import Uploads
from server.store.usage import UsageLedger
from server.store.webhooks import Webhooks


class Store:
    """All methods of all parts are safe to call from any number of processes at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.projects = Projects(database)
        self.keys = Keys(database)
        self.admin_keys = AdminKeys(database)
        self.audit = AuditLog(database)
        self.models = Models(database)
        self.aliases = Aliases(database)
        self.permissions = Permissions(database)
        self.configured_adapters = ConfiguredAdapters(database)
        self.engines = Engines(database)
        self.files = Files(database)
        self.uploads = Uploads(database)
        self.batches = Batches(database)
        self.jobs = Jobs(database)
        self.progress = Progress(database)
        self.replays = Replays(database)
        self.responses = Responses(database)
        self.completions = StoredCompletions(database)
        self.background_responses = BackgroundResponses(database)
        self.usage = UsageLedger(database)
        self.webhooks = Webhooks(database)

    async def counts(self) -> StoredCounts:
        return await count_stored(self._database)

    async def keep_reserve(self) -> None:
        """Sees to the room that deletes on a full disk need."""
        if self._database.reserve is not None:
            await asyncio.to_thread(self._database.reserve.keep)

    async def close(self) -> None:
        await self._database.close()


def _driver_error(error: BaseException) -> BaseException:
    if isinstance(error, StorageFullError | StoreUnavailableError):
        error = error.__cause__ or error
    return error.orig or error if isinstance(error, DBAPIError) else error


@contextmanager
def told_to_operator(url: str) -> Generator[None]:
    """Raises StoreUnusableError in place of any fault of the database at `url`."""
    try:
        yield
    except (DBAPIError, OSError, StorageFullError, StoreUnavailableError) as error:
        raise StoreUnusableError.of(url, _driver_error(error)) from error


async def open_store(url: str) -> Store:
    """Opens `url` (`sqlite+aiosqlite:///...` or `postgresql+asyncpg://...`), brought to this
    version's schema. Raises StoreUnusableError."""
    database = Database(url)
    try:
        with told_to_operator(url):
            await migrate(database)
    except BaseException:
        await database.close()
        raise
    return Store(database)
