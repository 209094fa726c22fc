"""vLLM's `POST /v1/completions` with token ids in and out, and its dynamic-LoRA routes.

Read from vLLM 0.32: `return_token_ids` adds `token_ids` to each chunk's choice (the stop token
included), `return_tokens_as_token_ids` spells tokens in logprobs as `token_id:N`.
"""

from __future__ import annotations

from typing import Any

from workers.contract.hello import Capability
from workers.contract.messages import FailureKind, FinishReason
from workers.contract.parts import Grammar, GrammarKind
from workers.engine.adapter_kinds import rules_of
from workers.engine.attached.connection import Connection, record_error
from workers.engine.attached.listing import find_base
from workers.engine.attached.server import AttachedServer, Call, Served
from workers.engine.attached.settings import AttachedSettings
from workers.engine.backend import Ended, Output, RefusedError, Score, Work
from workers.engine.spec import BackendName, EngineSpec

_SEED_RANGE = 2**63
_TOKEN_PREFIX = "token_id:"
# Log-probabilities of a prompt are not streamed.
_NOT_SERVED = {Capability.EMBED, Capability.SCORE, Capability.PROMPT_LOGPROBS}


class VllmServer(AttachedServer):
    health_path = "/health"
    load_path = "/v1/load_lora_adapter"
    unload_path = "/v1/unload_lora_adapter"

    def __init__(
        self,
        spec: EngineSpec,
        settings: AttachedSettings,
        connection: Connection,
        eos_ids: frozenset[int],
    ) -> None:
        super().__init__(spec, settings, connection, eos_ids)
        self._base = ""

    async def describe(self) -> Served:
        self._base, length = await find_base(self._connection, self._settings.served_model)
        version = (await self._connection.read("/version")).get("version", "unknown")
        return Served(
            version=str(version),
            max_model_len=length,
            capabilities=frozenset(Capability) - _NOT_SERVED,
            adapter_rules=rules_of(BackendName.VLLM, self._spec.max_lora_rank),
        )

    def call(self, work: Work) -> Call:
        model = self._base if work.adapter is None else work.adapter.name
        return _VllmCall(work, _body(work, model, self._eos_ids))

    async def abort(self, key: int) -> None:
        """Closing the connection makes vLLM stop at once."""


class _VllmCall:
    path = "/v1/completions"
    stops_here = False

    def __init__(self, work: Work, body: dict[str, Any]) -> None:
        self._work = work
        self.body = body
        # vLLM compiles a grammar only after its headers are out.
        self.refuses_late = work.grammar is not None
        self._ended: Output | None = None

    def read(self, record: dict[str, Any]) -> Output | None:
        """The end is held back for the usage, which comes in a record of its own after it."""
        work = self._work
        error = record_error(work, record)
        if error is not None:
            return Output(work.key, ended=error)
        if self._ended is not None:
            return self._end(_cached_tokens(record))
        choices = record.get("choices")
        if not choices:
            return None
        output = _output(work, choices[0])
        if output.ended is not None:
            self._ended = output
            return None
        return output if output.token_ids else None

    def finish(self) -> Output | None:
        return self._end(0)

    def _end(self, cached_tokens: int) -> Output | None:
        output, self._ended = self._ended, None
        if output is not None and isinstance(output.ended, Ended):
            ended = output.ended
            output.ended = Ended(ended.reason, ended.stop_id, cached_tokens)
        return output


def _cached_tokens(record: dict[str, Any]) -> int:
    """Told only by a server with `--enable-prompt-tokens-details`."""
    details = (record.get("usage") or {}).get("prompt_tokens_details") or {}
    return details.get("cached_tokens") or 0


def _body(work: Work, model: str, eos_ids: frozenset[int]) -> dict[str, Any]:
    """Raises RefusedError."""
    sampling = work.sampling
    # What a grammar has come to its end with is an end of sequence, whatever the request ignores.
    stop_ids = work.stop_ids if work.grammar is None else work.stop_ids | eos_ids
    body: dict[str, Any] = {
        "model": model,
        "prompt": work.prompt_ids,
        "stream": True,
        "stream_options": {"include_usage": True},
        "add_special_tokens": False,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "skip_special_tokens": False,
        "max_tokens": work.max_tokens,
        "min_tokens": sampling.min_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "stop_token_ids": sorted(stop_ids),
        "ignore_eos": True,
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed % _SEED_RANGE
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if sampling.logprobs is not None:
        body["logprobs"] = sampling.logprobs
    if work.cache_scope:
        body["cache_salt"] = work.cache_scope
    if work.grammar is not None:
        body["structured_outputs"] = _structured(work.grammar)
    return body


def _structured(simple: Grammar) -> dict[str, Any]:
    match simple.kind:
        case GrammarKind.REGEX:
            return {"regex": simple.source}
        case GrammarKind.STRUCTURAL_TAG:
            return {"structural_tag": simple.source}
        case _:
            return {"grammar": simple.source}


def _output(work: Work, choice: dict[str, Any]) -> Output:
    output = Output(work.key)
    token_ids: list[int] = choice.get("token_ids") or []
    finish, stop = choice.get("finish_reason"), choice.get("stop_reason")
    scores = _scores(choice, work)
    if finish is not None:
        output.ended = _ended(finish, stop)
        if isinstance(stop, int) and token_ids and token_ids[-1] == stop:
            token_ids = token_ids[:-1]
    output.token_ids = token_ids
    if scores is not None and token_ids:
        output.scores = scores[: len(token_ids)]
    return output


def _ended(finish: str, stop: Any) -> Ended | RefusedError:
    if finish == "length":
        return Ended(FinishReason.LENGTH)
    if finish == "stop":
        return Ended(FinishReason.STOP, stop if isinstance(stop, int) else None)
    if finish == "abort":
        return Ended(FinishReason.ABORT)
    return RefusedError(FailureKind.INTERNAL, "The attached engine stopped this request.")


def _scores(choice: dict[str, Any], work: Work) -> list[Score] | None:
    logprobs, wanted = choice.get("logprobs"), work.sampling.logprobs
    if logprobs is None or wanted is None:
        return None
    own: list[float] = logprobs["token_logprobs"]
    tops: list[dict[str, float] | None] = logprobs["top_logprobs"]
    scores: list[Score] = []
    for index, logprob in enumerate(own):
        # The chosen token is among them, even when it is not among the most likely.
        listed = [(_token_id(name), value) for name, value in (tops[index] or {}).items()]
        ranked = sorted(listed, key=lambda entry: -entry[1])[:wanted]
        scores.append(Score(logprob, ranked))
    return scores


def _token_id(name: str) -> int:
    return int(name.removeprefix(_TOKEN_PREFIX))
