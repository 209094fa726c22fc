"""SGLang's native `POST /generate` with token ids in and out, and its dynamic-LoRA routes.

Read from SGLang 0.5.23. A server that somebody else started differs from our own engine process in
what we cannot set: whether it streams increments or everything so far (it says so), and whether its
log-probabilities are those before the temperature (it does not say: they are asked for only where
the temperature does not change them). A name it has unloaded it would load again by itself when a
request names it; the adapter pool never names one that it has not loaded.
"""

from __future__ import annotations

import logging
import uuid
from typing import Any

from workers.contract.hello import Capability
from workers.contract.messages import FailureKind
from workers.engine.adapter_kinds import rules_of
from workers.engine.attached.connection import Connection, record_error
from workers.engine.attached.listing import find_base
from workers.engine.attached.server import AttachedServer, Call, Served
from workers.engine.attached.settings import AttachedSettings
from workers.engine.backend import Output, RefusedError, Work
from workers.engine.sglang.answers import Answer
from workers.engine.sglang.limits import CAPABILITIES, RESERVED_TOKENS
from workers.engine.sglang.sampling import check_served, sampling_params
from workers.engine.spec import BackendName, EngineSpec

log = logging.getLogger(__name__)

_GRAMMARS = frozenset(
    {
        Capability.JSON_SCHEMA,
        Capability.REGEX,
        Capability.CHOICE,
        Capability.EBNF,
        Capability.STRUCTURAL_TAG,
    }
)


class SglangServer(AttachedServer):
    health_path = "/ready"  # `/health` generates a token
    load_path = "/load_lora_adapter"
    unload_path = "/unload_lora_adapter"

    def __init__(
        self,
        spec: EngineSpec,
        settings: AttachedSettings,
        connection: Connection,
        eos_ids: frozenset[int],
    ) -> None:
        super().__init__(spec, settings, connection, eos_ids)
        self._is_incremental = False
        # Other clients of the server have request ids of their own.
        self._prefix = uuid.uuid4().hex

    async def describe(self) -> Served:
        _, length = await find_base(self._connection, self._settings.served_model)
        info = await self._connection.read("/server_info")
        self._is_incremental = bool(info.get("incremental_streaming_output"))
        places = info.get("max_total_num_tokens")
        limits = [limit for limit in (length, places) if isinstance(limit, int)]
        capabilities = CAPABILITIES
        if info.get("grammar_backend") != "xgrammar":
            # Which grammars another compiler takes cannot be checked here before it is too late.
            capabilities -= _GRAMMARS
        if info.get("enable_deterministic_inference"):
            capabilities |= {Capability.SEED}
        if info.get("enable_lora"):
            capabilities |= {Capability.LORA}
        rank = info.get("max_lora_rank")
        own = self._spec.max_lora_rank
        return Served(
            version=str(info.get("version", "unknown")),
            max_model_len=min(limits) - RESERVED_TOKENS if limits else None,
            capabilities=capabilities,
            adapter_rules=rules_of(
                BackendName.SGLANG, min(rank, own) if isinstance(rank, int) else own
            ),
        )

    def call(self, work: Work) -> Call:
        check_served(work)
        _check_temperature(work)
        # A grammar that has come to its end ends the sequence, whatever the request ignores.
        engine_stops = work.grammar is not None or self._eos_ids <= work.stop_ids
        return _SglangCall(work, self._rid(work.key), engine_stops, self._is_incremental)

    async def abort(self, key: int) -> None:
        """At a closed connection SGLang stops two seconds later; told by name, at once. A server
        with an admin key may not let us."""
        try:
            await self._connection.post("/abort_request", {"rid": self._rid(key)})
        except RefusedError as error:
            log.warning("abort not sent", extra={"reason": error.message})

    def _rid(self, key: int) -> str:
        return f"{self._prefix}-{key}"


class _SglangCall:
    path = "/generate"
    refuses_late = True

    def __init__(self, work: Work, rid: str, engine_stops: bool, is_incremental: bool) -> None:
        self._work = work
        self._answer = Answer(work, engine_stops=engine_stops)
        self._is_incremental = is_incremental
        sampling = work.sampling
        self.body: dict[str, Any] = {
            "rid": rid,
            "input_ids": work.prompt_ids,
            "sampling_params": sampling_params(work, engine_stops=engine_stops),
            "stream": True,
        }
        asked = [n for n in (sampling.logprobs, sampling.prompt_logprobs) if n is not None]
        if asked:
            self.body |= {
                "return_logprob": True,
                "top_logprobs_num": max(asked),
                "logprob_start_len": 0 if sampling.prompt_logprobs is not None else -1,
                "return_text_in_logprobs": False,
            }
        if work.adapter is not None:
            self.body["lora_path"] = work.adapter.name
        if work.cache_scope:
            self.body["cache_salt"] = work.cache_scope

    @property
    def stops_here(self) -> bool:
        return self._answer.stops_here

    def read(self, record: dict[str, Any]) -> Output | None:
        error = record_error(self._work, record)
        if error is not None:
            return Output(self._work.key, ended=error)
        chunk = record if self._is_incremental else self._answer.increment(record)
        output = self._answer.read(chunk)
        tells = output.token_ids or output.prompt_scores or output.ended is not None
        return output if tells else None

    def finish(self) -> Output | None:
        return None


def _check_temperature(work: Work) -> None:
    sampling = work.sampling
    if sampling.temperature in (0, 1):
        return
    for param in ("logprobs", "prompt_logprobs"):
        if getattr(sampling, param) is not None:
            raise RefusedError(
                FailureKind.UNSUPPORTED,
                "The engine of this model (an attached sglang) may report log-probabilities after "
                f"the temperature has changed them; {param} wants temperature 0 or 1.",
                param,
            )
