"""What the attached backend asks of a kind of server: one module implements it for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from workers.contract.hello import Capability
from workers.contract.parts import AdapterRef
from workers.engine.adapter_kinds import AdapterRules
from workers.engine.attached.connection import Connection
from workers.engine.attached.listing import holds
from workers.engine.attached.settings import AttachedSettings
from workers.engine.backend import Output, Work
from workers.engine.spec import EngineSpec


@dataclass(frozen=True, slots=True)
class Served:
    """What a server says of itself."""

    version: str
    max_model_len: int | None
    """None: it does not say."""
    capabilities: frozenset[Capability]
    """`LORA` if it could load adapters, as far as it tells."""
    adapter_rules: AdapterRules


class Call(Protocol):
    """One sequence at the server: the request, and its stream read record by record."""

    @property
    def path(self) -> str: ...

    @property
    def body(self) -> dict[str, Any]: ...

    @property
    def refuses_late(self) -> bool:
        """The server may refuse in the stream's first record: the sequence counts as accepted only
        after it."""
        ...

    @property
    def stops_here(self) -> bool:
        """The sequence has ended here while the server goes on."""
        ...

    def read(self, record: dict[str, Any]) -> Output | None:
        """None where the record brings nothing."""
        ...

    def finish(self) -> Output | None:
        """The stream has ended: what was held back."""
        ...


class Server(Protocol):
    health_path: str
    load_path: str
    unload_path: str

    async def describe(self) -> Served:
        """Raises SpecError."""
        ...

    def call(self, work: Work) -> Call:
        """Raises RefusedError."""
        ...

    async def abort(self, key: int) -> None:
        """Beyond closing the connection, at which every server stops in the end."""
        ...

    async def loaded(self, adapter: AdapterRef) -> bool:
        """Whether the server holds the adapter, from the same files. Raises SpecError."""
        ...


class AttachedServer:
    """What speaking to each kind has in common."""

    def __init__(
        self,
        spec: EngineSpec,
        settings: AttachedSettings,
        connection: Connection,
        eos_ids: frozenset[int],
    ) -> None:
        self._spec = spec
        self._settings = settings
        self._connection = connection
        self._eos_ids = eos_ids

    async def loaded(self, adapter: AdapterRef) -> bool:
        return await holds(self._connection, adapter)
