"""The gateway as an ASGI app: what it is made of, and what answers which path.

`create_app` opens nothing; the store, the engine connections and everything else that must be
closed again are made in the lifespan and live in `Services`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server import api_docs, generating, health
from server.api_docs import ApiDocument
from server.auth import KeyRing
from server.batches import routes as batches_routes
from server.batches.schemas import CreateBatch
from server.batches.service import BatchService
from server.blobs import LocalBlobs, StorageFullError
from server.chat import stored_routes
from server.config import Config, Limits
from server.cors import CorsPolicy
from server.direct.connections import Connections
from server.direct.decoding import BodyDecoder
from server.direct.desk import Desk
from server.direct.keep_alive import KeepAlive
from server.engines.pool import EnginePool
from server.errors import ApiError, InvalidRequest, NotFound
from server.faults import answer_to
from server.files import routes as files_routes
from server.files.service import FileService
from server.fine_tuning import permissions as permission_routes
from server.fine_tuning import routes as fine_tuning_routes
from server.fine_tuning.creation import JobFactory
from server.fine_tuning.permissions import GrantPermissions
from server.fine_tuning.schemas import CreateJob
from server.fine_tuning.service import JobService
from server.gate import Gate
from server.generation.line import open_lines
from server.generation.rate_sharing import RateSharing
from server.generation.rates import RateMeter
from server.generation.serving import Runner
from server.graders import routes as grader_routes
from server.graders.running import GraderRunner
from server.graders.schemas import RunGrader, ValidateGrader
from server.keeping import Keeper
from server.logs import AccessLog
from server.media import MediaLoader
from server.models import routes as models_routes
from server.models.catalog import Catalog
from server.models.routes import MoveAlias
from server.openapi import document
from server.organization import BODIES as ORGANIZATION_BODIES
from server.organization import router as organization_router
from server.responses import routes as responses_routes
from server.responses.background import Background
from server.responses.context import ContextLoader
from server.responses.schemas import CountTokens
from server.store import Store, StoreUnavailableError, open_store
from server.store.identifiers import random_id
from server.store.passing_faults import UnstorableTextError
from server.store.responses import StoredResponse
from server.store.stored_completions import StoredCompletion
from server.unsupported import find_unsupported
from server.uploads import routes as uploads_routes
from server.uploads.schemas import CompleteUpload, CreateUpload
from server.uploads.service import UploadService
from server.usage import Accountant
from server.validation import translate

API_TITLE = "Tuneyard"
_BODIES = (
    CreateJob,
    CreateUpload,
    CompleteUpload,
    MoveAlias,
    GrantPermissions,
    RunGrader,
    ValidateGrader,
    CountTokens,
    CreateBatch,
    *ORGANIZATION_BODIES,
)
"""Of routes that read their body themselves."""


@dataclass(frozen=True, slots=True)
class Services:
    """What requests are served with; one per running app."""

    config: Config
    store: Store
    keys: KeyRing
    access_log: AccessLog
    files: FileService
    uploads: UploadService
    pool: EnginePool
    catalog: Catalog
    accountant: Accountant
    runner: Runner
    keep_alive: KeepAlive
    media: MediaLoader
    keeper: Keeper[StoredResponse]
    completion_keeper: Keeper[StoredCompletion]
    background: Background
    contexts: ContextLoader
    jobs: JobService
    batches: BatchService
    graders: GraderRunner
    decoder: BodyDecoder
    cors: CorsPolicy

    @property
    def limits(self) -> Limits:
        return self.config.limits


class GatewayApp(FastAPI):
    """A FastAPI app under a `Gate`, with typed access to its services."""

    def __init__(self, config: Config, access_log: AccessLog) -> None:
        super().__init__(
            title=API_TITLE,
            version="1",
            redirect_slashes=False,
            lifespan=_lifespan,
            openapi_url=None,
            generate_unique_id_function=lambda route: route.name,
        )
        self.config = config
        self.access_log = access_log
        self.endpoints = generating.open_endpoints(self)
        """Those that generate, by path."""
        self.desk = Desk(self, access_log, self.endpoints)
        self.connections = Connections(config.limits)
        self.api_document = ApiDocument(self.openapi)
        self._services: Services | None = None
        self._gate = Gate(super().__call__, self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The gate comes before all of the framework's own layers."""
        await self._gate(scope, receive, send)

    @property
    def services(self) -> Services:
        if self._services is None:
            raise RuntimeError("the app has not been started")
        return self._services

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            self._services = await _open_services(
                self.config, self.access_log, self.endpoints, stack
            )
            self._services.batches.start()
            self._services.background.start()
            try:
                yield
            finally:
                self.desk.close()
                self.connections.close()
                self._services = None

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = document(self.title, self.version, self.routes, _BODIES)
        return self.openapi_schema


def create_app(config: Config, access_log: AccessLog | None = None) -> GatewayApp:
    app = GatewayApp(config, access_log or AccessLog())
    for kind in (
        ApiError,
        StorageFullError,
        StoreUnavailableError,
        UnstorableTextError,
        Exception,
    ):
        app.add_exception_handler(kind, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.include_router(health.router)
    app.include_router(api_docs.router)
    app.include_router(generating.described())
    app.include_router(responses_routes.router)
    app.include_router(stored_routes.router)
    app.include_router(models_routes.router)
    app.include_router(files_routes.router)
    app.include_router(uploads_routes.router)
    app.include_router(batches_routes.router)
    app.include_router(fine_tuning_routes.router)
    app.include_router(permission_routes.router)
    app.include_router(grader_routes.router)
    app.include_router(organization_router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    assert isinstance(app, GatewayApp)
    async with app.running():
        yield


async def _open_services(
    config: Config,
    access_log: AccessLog,
    endpoints: Mapping[str, generating.Endpoint],
    stack: AsyncExitStack,
) -> Services:
    store = await open_store(config.database_url)
    stack.push_async_callback(store.close)
    stack.callback(access_log.flush)
    accountant = Accountant(store.usage)
    stack.push_async_callback(accountant.close)
    ca_files = {entry.id: entry.ca_file for entry in config.models}
    pool = EnginePool(store.engines, config.limits.max_requests_per_model, ca_files)
    stack.push_async_callback(pool.close)
    keep_alive = KeepAlive(config.limits.keep_alive_s)
    stack.callback(keep_alive.close)
    media = MediaLoader(config.media)
    stack.push_async_callback(media.close)
    graders = GraderRunner()
    stack.callback(graders.close)
    rates = RateMeter(config.limits)
    sharing = RateSharing(rates, store.usage)
    stack.push_async_callback(sharing.close)
    await sharing.start()
    keeper = Keeper(store.responses.add, config.limits.response_days)
    stack.push_async_callback(keeper.close)
    completion_keeper = Keeper(store.completions.add, config.limits.response_days)
    stack.push_async_callback(completion_keeper.close)
    await pool.start()
    background = Background(store.background_responses, config.limits, random_id("gateway_"))
    stack.push_async_callback(background.close)
    blobs = LocalBlobs(config.files_dir)
    catalog = Catalog(store.models, pool, config)
    batches = BatchService(store, blobs, catalog, endpoints, config)
    stack.push_async_callback(batches.close)
    return Services(
        config=config,
        store=store,
        keys=KeyRing(store.keys, store.admin_keys),
        access_log=access_log,
        files=FileService(store, blobs, config.limits.max_file_bytes),
        uploads=UploadService(store, blobs, config.limits.max_upload_bytes),
        pool=pool,
        catalog=catalog,
        accountant=accountant,
        runner=Runner(
            pool,
            accountant,
            config.limits,
            rates,
            open_lines(config.models),
            frozenset(entry.id for entry in config.models if entry.shared_prefix_cache),
        ),
        keep_alive=keep_alive,
        media=media,
        keeper=keeper,
        completion_keeper=completion_keeper,
        background=background,
        contexts=ContextLoader(store.responses),
        jobs=JobService(store, JobFactory(store, blobs, config, pool.hello)),
        batches=batches,
        graders=graders,
        decoder=BodyDecoder(config.limits.max_body_bytes),
        cors=CorsPolicy(config.cors, config.host),
    )


def _answer(error: ApiError) -> Response:
    return Response(
        error.body(),
        status_code=error.status,
        media_type="application/json",
        headers=dict(error.headers),
    )


async def _answer_error(_request: Request, error: Exception) -> Response:
    return _answer(answer_to(error))


async def _answer_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    from_query = any(detail["loc"][0] == "query" for detail in error.errors())
    details = [_without_source(detail) for detail in error.errors()]
    return _answer(translate(details, dict(request.query_params) if from_query else error.body))


def _without_source(detail: Mapping[str, object]) -> Mapping[str, object]:
    """FastAPI puts `body`, `query` or `path` before the location."""
    location = detail["loc"]
    assert isinstance(location, tuple)
    return {**detail, "loc": location[1:]}


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """The framework's own refusals, and errors of ours that it wrapped while reading a body."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, ApiError):
        return _answer(error.__cause__)
    where = f"{request.method} {request.url.path}"
    if error.status_code in (404, 405):
        unsupported = find_unsupported(request.method, request.url.path)
        if unsupported is not None:
            return _answer(unsupported)
    if error.status_code == 404:
        return _answer(NotFound(f"Invalid URL ({where})"))
    if error.status_code == 405:
        answer = _answer(InvalidRequest(f"Not allowed to {where}.", code="method_not_supported"))
        answer.status_code = 405
        answer.headers.update(error.headers or {})
        answer.headers["allow"] = answer.headers.get("allow", "").replace("GET", "GET, HEAD")
        return answer
    answer = _answer(InvalidRequest(str(error.detail)))
    answer.status_code = error.status_code
    return answer
