"""Batches are created, cancelled, and taken up by this gateway when nobody else has them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress

from server.auth import Principal
from server.batches.input_file import MAX_BYTES
from server.batches.journal import JournalInUseError
from server.batches.lines import LineRunner
from server.batches.run import LEASE_S, BatchRun, RunServices, input_key
from server.batches.schemas import WINDOW_S, BatchObject, CreateBatch
from server.batches.slots import Slots
from server.blobs import Blobs, StorageFullError
from server.config import Config
from server.errors import InvalidRequest, NotFound, PermissionDenied, RateLimited
from server.files.schemas import Purpose
from server.generating import Endpoint
from server.idempotency import IdempotentCall
from server.models.catalog import Catalog
from server.scopes import missing_scope
from server.store import Store, StoreUnavailableError
from server.store.batches import Batch, LeaseLostError, TooManyBatchesError
from server.store.identifiers import random_id

logger = logging.getLogger(__name__)

ROUTE = "batches"
_LOOK_INTERVAL_S = 1.0
_PAUSE_S = 5.0
"""Before a batch that met an error is tried again."""
_MAX_RUNS = 64
"""Batches that one gateway runs at once."""


class BatchService:
    """`start` and `close` must be called."""

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        catalog: Catalog,
        endpoints: Mapping[str, Endpoint],
        config: Config,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._limits = config.limits
        self._owner = random_id("gateway_")
        slots = Slots(self._limits.batch_lines_at_once)
        self._services = RunServices(
            store=store,
            blobs=blobs,
            catalog=catalog,
            lines=LineRunner(endpoints, slots),
            lines_at_once=self._limits.batch_lines_at_once,
            folder=config.data / "batches",
            owner=self._owner,
        )
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._has_work = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._looking = asyncio.create_task(self._look())

    async def close(self) -> None:
        """What is under way is put down, for whoever takes it up."""
        tasks = [*self._runs.values()]
        if self._looking is not None:
            tasks.append(self._looking)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def create(
        self, principal: Principal, wanted: CreateBatch, call: IdempotentCall | None
    ) -> bytes:
        """The JSON of the new batch, or of the one an earlier identical request made. Raises
        ApiError; StorageFullError."""
        if call is not None and (answer := await call.earlier_answer(self._store)) is not None:
            return answer
        _check_scope(principal, wanted.endpoint)
        blob = await self._input_blob(principal.project.id, wanted.input_file_id)
        now = int(time.time())
        expiry = wanted.output_expires_after
        batch = Batch(
            id=random_id("batch_"),
            project_id=principal.project.id,
            key_id=principal.key_id,
            endpoint=wanted.endpoint,
            input_file_id=wanted.input_file_id,
            completion_window=wanted.completion_window,
            output_expires_s=None if expiry is None else expiry.seconds,
            metadata=wanted.metadata,
            created_at=now,
            expires_at=now + WINDOW_S,
        )
        answer = BatchObject.of(batch).model_dump_json().encode()
        key = input_key(batch.id)
        try:
            await self._blobs.copy(blob, key)
        except FileNotFoundError:
            raise _no_such_input(wanted.input_file_id) from None
        try:
            earlier = await self._store.batches.add(
                batch, self._limits.max_batches_per_project, call and call.keeping(answer)
            )
        except TooManyBatchesError:
            await self._blobs.delete(key)
            raise RateLimited(
                f"Your project has {self._limits.max_batches_per_project} batches under way, which "
                "is as many as it may. Please wait until one has ended.",
                retry_after_s=30.0,
            ) from None
        except BaseException:
            await self._blobs.delete(key)
            raise
        if earlier is not None and call is not None:
            await self._blobs.delete(key)
            return call.answer_of(earlier)
        self._has_work.set()
        return answer

    async def find(self, project_id: str, batch_id: str) -> Batch:
        """Raises NotFound."""
        batch = await self._store.batches.find(project_id, batch_id)
        if batch is None:
            raise no_such_batch(batch_id)
        return batch

    async def cancel(self, project_id: str, batch_id: str) -> Batch:
        """Raises NotFound, and InvalidRequest for one that has ended."""
        batch = await self._store.batches.cancel(project_id, batch_id)
        if batch is None:
            raise no_such_batch(batch_id)
        if batch.cancelling_at is None:
            raise InvalidRequest(
                f"Cannot cancel a batch with status '{batch.status.value}'.",
                code="invalid_batch_status",
            )
        return batch

    async def _input_blob(self, project_id: str, file_id: str) -> str:
        file = await self._store.files.find(project_id, file_id)
        if file is None:
            raise _no_such_input(file_id)
        if file.purpose != Purpose.BATCH:
            raise InvalidRequest(
                f"The file has the purpose '{file.purpose}'; a batch's is '{Purpose.BATCH}'.",
                param="input_file_id",
                code="invalid_file_purpose",
            )
        if file.num_bytes > MAX_BYTES:
            raise InvalidRequest(
                f"The file is larger than the {MAX_BYTES} bytes that a batch may have.",
                param="input_file_id",
                code="file_too_large",
            )
        return file.blob

    async def _look(self) -> None:
        """Takes up what is open, at once what was created here."""
        while True:
            self._has_work.clear()
            with suppress(StoreUnavailableError, StorageFullError):
                room = _MAX_RUNS - len(self._runs)
                # Its own that lost its lease, and has not noticed, ends before it is taken anew.
                for batch in await self._store.batches.claim(
                    self._owner,
                    LEASE_S,
                    self._limits.running_batches_per_project,
                    room,
                    but=self._runs,
                ):
                    self._runs[batch.id] = asyncio.create_task(self._run(batch))
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_INTERVAL_S):
                    await self._has_work.wait()

    async def _run(self, batch: Batch) -> None:
        try:
            await BatchRun(self._services, batch).run()
        except (LeaseLostError, JournalInUseError):
            logger.warning("another gateway runs the batch", extra={"batch": batch.id})
            return
        except asyncio.CancelledError:
            await self._release(batch)
            raise
        except Exception:
            logger.exception("a batch met an error", extra={"batch": batch.id})
            await asyncio.sleep(_PAUSE_S)
            await self._release(batch)
        finally:
            self._runs.pop(batch.id, None)
            self._has_work.set()

    async def _release(self, batch: Batch) -> None:
        with suppress(StoreUnavailableError, StorageFullError):
            await self._store.batches.release(batch.id, self._owner)


def _check_scope(principal: Principal, endpoint: str) -> None:
    """Raises PermissionDenied: a batch opens no more than the key does."""
    if principal.scopes is None:
        return
    missing = missing_scope(principal.scopes, "POST", endpoint)
    if missing is not None:
        raise PermissionDenied(
            "You have insufficient permissions for this operation. Missing scopes: "
            + missing
            + ".",
            param="endpoint",
            code="insufficient_permissions",
        )


def no_such_batch(batch_id: str) -> NotFound:
    return NotFound(f"No batch found with id '{batch_id}'.", param="batch_id")


def _no_such_input(file_id: str) -> InvalidRequest:
    return InvalidRequest(
        f"No such File object: {file_id}", param="input_file_id", code="invalid_value"
    )
