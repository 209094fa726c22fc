"""Which kind of server is at the URL, and how it is spoken to."""

from __future__ import annotations

from workers.engine.attached.connection import OK, Connection
from workers.engine.attached.server import Server
from workers.engine.attached.settings import AttachedSettings, Flavour
from workers.engine.attached.sglang_api import SglangServer
from workers.engine.attached.vllm_api import VllmServer
from workers.engine.spec import EngineSpec, SpecError

_SERVERS = {Flavour.VLLM: VllmServer, Flavour.SGLANG: SglangServer}
_OWN_PATHS = {Flavour.VLLM: "/version", Flavour.SGLANG: "/model_info"}
"""What only this server answers, read before anything else is."""


async def find_server(
    spec: EngineSpec,
    settings: AttachedSettings,
    connection: Connection,
    eos_ids: frozenset[int],
) -> tuple[Flavour, Server]:
    """Raises SpecError."""
    flavour = settings.flavour or await _ask(settings, connection)
    return flavour, _SERVERS[flavour](spec, settings, connection, eos_ids)


async def _ask(settings: AttachedSettings, connection: Connection) -> Flavour:
    # Says what is wrong with the address or the key, whichever server it is.
    await connection.read("/v1/models")
    for flavour, path in _OWN_PATHS.items():
        if await connection.status(path, settings.connect_timeout_s) == OK:
            return flavour
    raise SpecError(
        "the attached engine is not a vLLM or SGLang server (name it with flavour if it is)"
    )
