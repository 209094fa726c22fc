"""From a model's id or alias to what a request needs to run on it: its record, an engine that
speaks for it, and its chat format.

Records are remembered for a second; an id that is not known always asks the store, so a model can
be chatted with the moment it is registered.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Protocol

import msgspec

from server.auth import Principal
from server.blobs import StorageFullError
from server.config import Config
from server.config.generation import GenerationDefaults
from server.direct.eager import own_task
from server.engines.client import EngineConnection
from server.engines.pool import EnginePool
from server.engines.start_failures import failing_engines, read_failures
from server.errors import (
    MODEL_NOT_LOADED,
    ApiError,
    ModelNotFound,
    ModelNotLoaded,
    Unavailable,
)
from server.generation.defaults import ModelDefaults, model_defaults
from server.hubs.arrivals import read_arrivals
from server.models.chat_formats import no_chat_format
from server.remembered import Remembered
from server.store import StoreUnavailableError
from server.store.records import Model
from templates.conversation import MediaKind
from templates.format import ChatFormat, FormatError, FormatSettings, TokenizerInfo
from templates.registry import open_format
from workers.contract.hello import Hello
from workers.contract.messages import Tokenize, Tokenized
from workers.contract.parts import AdapterRef, Text

logger = logging.getLogger(__name__)

MODEL_TTL_S = 1.0
WANT_INTERVAL_S = 1.0
"""How often at most the store is told that a model is in use."""
_START_POLL_S = 0.1
_RETRY_AFTER_START_S = 5.0
_RETRY_AFTER_FAILURE_S = 30.0


class ModelDirectory(Protocol):
    async def find(self, model_id: str, project_id: str) -> Model | None: ...

    async def want(self, model_id: str) -> None: ...


class Served(msgspec.Struct, frozen=True):
    """A model and what one of its engines said of itself."""

    model: Model
    hello: Hello
    defaults: ModelDefaults = ModelDefaults()

    @property
    def adapter(self) -> AdapterRef | None:
        model = self.model
        if model.adapter_uid is None:
            return None
        return AdapterRef(model.adapter_name, model.adapter_uid, model.path)


class Catalog:
    def __init__(self, directory: ModelDirectory, pool: EnginePool, config: Config) -> None:
        self._directory = directory
        self._pool = pool
        self._config = config
        self._models: Remembered[tuple[str, str], Model] = Remembered(self._find, MODEL_TTL_S)
        self._formats: dict[tuple[str, str | None], tuple[Hello, ChatFormat]] = {}
        self._defaults: dict[str, tuple[Hello, ModelDefaults]] = {}
        self._control_ids: dict[tuple[str, str], tuple[Hello, list[int]]] = {}
        self._wanted: dict[str, float] = {}
        """When the store was last told of each model that starts on demand."""
        self._telling: set[asyncio.Task[None]] = set()

    async def find(self, model_id: str, principal: Principal) -> Model:
        """Raises PermissionDenied, ModelNotFound, or ModelNotLoaded or Unavailable for an adapter
        of the configuration that is not served."""
        principal.check_model(model_id)
        model = await self._models.get((model_id, principal.project.id))
        if model is None:
            raise await self._absent(model_id)
        return model

    async def _absent(self, model_id: str) -> ApiError:
        """Why there is no such model: the reason it failed is for the operator's eyes."""
        adapters = (a.id for entry in self._config.models for a in entry.adapters)
        if model_id not in adapters:
            return ModelNotFound(model_id)
        failures = await asyncio.to_thread(read_failures, self._config.run_dir)
        if any(failure.part.adapter == model_id for failure in failures):
            return ModelNotLoaded(
                f"The model '{model_id}' is configured, but its adapter could not be loaded. The "
                "operator of this server is told why."
            )
        return Unavailable(
            f"The model '{model_id}' is being loaded. Please retry.",
            retry_after_s=_RETRY_AFTER_START_S,
            param="model",
            code=MODEL_NOT_LOADED,
        )

    async def _find(self, place: tuple[str, str]) -> Model | None:
        return await self._directory.find(*place)

    def forget(self, model_id: str, project_id: str) -> None:
        self._models.forget((model_id, project_id))

    def forget_model(self, model_id: str) -> None:
        """Under every name, and for every project."""
        self._models.forget_value(lambda model: model.id == model_id)

    async def serve(self, model_id: str, principal: Principal) -> Served:
        """Raises as `find`, and Unavailable when no engine is up."""
        model = await self.find(model_id, principal)
        if model.starts_on_demand:
            await own_task()
            connection = await self._started(model.id)
        else:
            connection = self._pool.any_usable(model.engine_model)
            if connection is None:
                await own_task()
                connection = await self._ready(model)
        return Served(model, connection.hello, self._defaults_of(model.base, connection.hello))

    def _defaults_of(self, base: str, hello: Hello) -> ModelDefaults:
        """Raises InternalError."""
        known = self._defaults.get(base)
        if known is not None and known[0] is hello:
            return known[1]
        entry = self._config.model(base)
        given = GenerationDefaults() if entry is None else entry.generation
        defaults = model_defaults(given, hello)
        self._defaults[base] = hello, defaults
        return defaults

    async def _ready(self, model: Model) -> EngineConnection:
        """Raises Unavailable, which says how far the model's download is."""
        try:
            return await self._pool.ready(model.engine_model)
        except Unavailable:
            arrivals = await asyncio.to_thread(read_arrivals, self._config.run_dir)
            for arrival in arrivals:
                if arrival.model == model.engine_model:
                    message = f"The model '{model.id}' is {arrival.progress}. Please retry."
                    raise Unavailable(message, retry_after_s=_RETRY_AFTER_START_S) from None
            await self._check_starts(model.engine_model)
            raise

    async def _check_starts(self, engine_model: str) -> None:
        """Raises Unavailable if each of the model's engines fails whenever it is started."""
        failing = await asyncio.to_thread(failing_engines, self._config.run_dir, engine_model)
        entry = self._config.model(engine_model)
        num_engines = 1 if entry is None else entry.num_engines
        if len(failing) >= num_engines:
            message = f"The engine of the model '{engine_model}' does not start."
            if num_engines > 1:
                shown = ", ".join(failing)
                message = f"No engine of the model '{engine_model}' starts: {shown}."
            raise Unavailable(message, retry_after_s=_RETRY_AFTER_FAILURE_S) from None

    async def _started(self, model_id: str) -> EngineConnection:
        """An engine of the model, which a supervisor starts now if it does not run. Raises
        Unavailable when that takes too long."""
        deadline = time.monotonic() + self._config.limits.max_start_wait_s
        self._note_use(model_id)
        with suppress(Unavailable):
            return await self._pool.ready(model_id)
        while time.monotonic() < deadline:
            if (connection := self._pool.any_usable(model_id)) is not None:
                return connection
            await asyncio.sleep(_START_POLL_S)
        await self._check_starts(model_id)
        message = f"The model '{model_id}' is being started. Please retry."
        raise Unavailable(message, retry_after_s=_RETRY_AFTER_START_S)

    def _note_use(self, model_id: str) -> None:
        """Nobody waits for the store: an engine that runs needs no word of it."""
        now = time.monotonic()
        if now - self._wanted.get(model_id, -WANT_INTERVAL_S) < WANT_INTERVAL_S:
            return
        self._wanted[model_id] = now
        task = asyncio.create_task(self._tell_wanted(model_id))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell_wanted(self, model_id: str) -> None:
        try:
            await self._directory.want(model_id)
        except (StorageFullError, StoreUnavailableError) as error:
            extra = {"model": model_id, "reason": str(error)}
            logger.warning("the use of a model could not be noted", extra=extra)

    async def control_ids(self, served: Served, text: str) -> list[int]:
        """`text` as control tokens. Asked of an engine once. Raises Unavailable."""
        key = served.model.base, text
        known = self._control_ids.get(key)
        if known is not None and known[0] is served.hello:
            return known[1]
        connection = await self._pool.ready(served.model.engine_model)
        part = Text(text, control=True, joined=False)
        event = await connection.ask(lambda number: Tokenize(number, [part]))
        if not isinstance(event, Tokenized):
            raise Unavailable("The engine of this model stopped. Please retry.")
        self._control_ids[key] = served.hello, event.ids
        return event.ids

    async def chat_format(self, served: Served, tool_format: str | None = None) -> ChatFormat:
        """Opened once for each start of an engine, in a thread: it reads files. `tool_format` is a
        known dialect, to be used for the model's own. Raises InvalidRequest if the model has no
        format that can be used: asking again does not help."""
        base, hello = served.model.base, served.hello
        key = base, tool_format
        known = self._formats.get(key)
        if known is not None and known[0] is hello:
            return known[1]
        entry = self._config.model(base)
        tokenizer = TokenizerInfo(
            bos_token=hello.bos_token,
            eos_token=hello.eos_token,
            special_tokens=frozenset(hello.special_tokens),
            chat_templates=hello.chat_templates,
            media={MediaKind(kind): text for kind, text in hello.media.items()},
        )
        settings = FormatSettings(tool_format=tool_format)
        if entry is not None:
            settings = FormatSettings(entry.default_system, tool_format or entry.tool_format)
        try:
            opened = await asyncio.to_thread(
                open_format,
                entry.template if entry is not None else None,
                tokenizer,
                self._config.templates,
                settings,
            )
        except FormatError as error:
            raise no_chat_format(served.model.id, entry, hello) from error
        self._formats[key] = hello, opened
        return opened
