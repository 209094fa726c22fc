"""The scripted engine: deterministic, no model, real frames.

Sequences with the same delay advance on the same ticks, so one step is one frame a connection
however many sequences there are.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from workers.contract.hello import Capability
from workers.contract.messages import FailureKind, FinishReason, Stats
from workers.contract.parts import AdapterRef, GrammarKind
from workers.engine.backend import (
    AdapterHost,
    Description,
    Ended,
    Output,
    Receiver,
    RefusedError,
    Score,
    Work,
)
from workers.engine.residency import AdapterPool, with_adapters
from workers.engine.scripted.pooling import ScriptedPooling
from workers.engine.scripted.script import Reply, Script
from workers.engine.scripted.vocabulary import ScriptedNames, ScriptedVocabulary
from workers.engine.spec import EngineSpec, read_settings

_DEFAULT_MODEL_LEN = 32_768
_NO_DELAY_MS = 0.0


def create(spec: EngineSpec) -> tuple[ScriptedBackend, ScriptedVocabulary]:
    script = read_settings(spec.settings, Script)
    names = ScriptedNames(
        script.bos_token,
        script.eos_token,
        [*script.special_tokens, *script.marks],
        script.chat_templates,
    )
    vocabulary = ScriptedVocabulary(names, script.special_tokens, script.marks)
    return ScriptedBackend(spec, script, vocabulary), vocabulary


@dataclass(slots=True)
class _Speaker:
    """One sequence saying its reply."""

    work: Work
    reply: Reply
    token_ids: list[int]
    at: int = 0


@dataclass(slots=True)
class _Ticker:
    """The sequences of one delay."""

    delay_ms: float
    speakers: dict[int, _Speaker] = field(default_factory=dict[int, _Speaker])
    is_set: bool = False


class ScriptedBackend:
    def __init__(self, spec: EngineSpec, script: Script, vocabulary: ScriptedVocabulary) -> None:
        self._spec = spec
        self._script = script
        self._vocabulary = vocabulary
        self._waiting: deque[_Speaker] = deque()
        self._tickers: dict[float, _Ticker] = {}
        self._running: dict[int, _Ticker] = {}
        self._adapter_names: dict[int, str] = {}
        """Of the sequences that are waiting or running with one."""
        self._pool: AdapterPool | None = None
        self._pooling = ScriptedPooling()
        self._prompt_tokens = self._generated_tokens = 0

    async def start(self, receiver: Receiver) -> Description:
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        await asyncio.sleep(self._script.startup_delay_ms / 1000)
        capabilities = set(self._script.capabilities)
        if self._spec.max_loras:
            places = self._spec.max_loras
            self._pool = AdapterPool(
                places, _ScriptedAdapters(self._script.adapter_load_ms), receiver.adapters_changed
            )
        else:
            capabilities.discard(Capability.LORA)
        return Description(
            engine="scripted/1",
            max_model_len=self._spec.max_model_len or _DEFAULT_MODEL_LEN,
            capabilities=frozenset(capabilities),
            max_loras=self._spec.max_loras,
            max_lora_rank=self._spec.max_lora_rank,
        )

    async def submit(self, work: Work) -> None:
        reply = self._choose(work)
        if reply.fail is not None and reply.fail.after_tokens is None:
            raise RefusedError(reply.fail.kind, reply.fail.message, reply.fail.param)
        if work.adapter is not None:
            assert self._pool is not None, "LoRA is declared only with a pool"
            await self._pool.acquire(work.adapter)
            self._adapter_names[work.key] = work.adapter.name
        speaker = _Speaker(work, reply, self._words(work, reply))
        self._prompt_tokens += len(work.prompt_ids)
        self._waiting.append(speaker)
        self._promote()

    def abort(self, key: int) -> None:
        ticker = self._running.pop(key, None)
        if ticker is not None:
            ticker.speakers.pop(key, None)
        else:
            self._waiting = deque(s for s in self._waiting if s.work.key != key)
        self._release(key)
        self._promote()

    def _release(self, key: int) -> None:
        name = self._adapter_names.pop(key, None)
        if name is not None and self._pool is not None:
            self._pool.release(name)

    @property
    def adapters(self) -> AdapterHost | None:
        return self._pool

    @property
    def pooling(self) -> ScriptedPooling:
        return self._pooling

    def stats(self) -> Stats:
        running = len(self._running)
        stats = Stats(
            running=running,
            waiting=len(self._waiting),
            kv_usage=running / self._spec.max_num_seqs,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
        )
        return with_adapters(stats, self._pool)

    async def close(self) -> None:
        self._tickers.clear()
        self._running.clear()
        self._waiting.clear()

    # --- choosing words ---------------------------------------------------------------------------

    def _choose(self, work: Work) -> Reply:
        kind = work.grammar.kind if work.grammar is not None else None
        if work.grammar is not None and kind in (GrammarKind.JSON_SCHEMA, GrammarKind.CHOICE):
            _check_json(work.grammar.source)
        prompt = b"".join(map(self._vocabulary.piece, work.prompt_ids)).decode("utf-8", "replace")
        for reply in self._script.replies:
            if reply.contains in prompt and reply.grammar == kind:
                return reply
        if kind is not None:
            message = f"The script has no reply for a grammar of kind {kind}."
            raise RefusedError(FailureKind.UNSUPPORTED, message, "response_format")
        return Reply()

    def _words(self, work: Work, reply: Reply) -> list[int]:
        name = work.adapter.name if work.adapter is not None else "base"
        vocabulary = self._vocabulary
        if reply.tokens is not None:
            ids = [vocabulary.output_id(t.replace("{adapter}", name)) for t in reply.tokens]
        else:
            text = reply.text
            if text is None:
                text = vocabulary.content(work.prompt_ids).decode("utf-8", "replace")
            ids = vocabulary.control_ids(text.replace("{adapter}", name))
        return ids * reply.repeat

    # --- speaking ---------------------------------------------------------------------------------

    def _promote(self) -> None:
        while self._waiting and len(self._running) < self._spec.max_num_seqs:
            speaker = self._waiting.popleft()
            delay_ms = speaker.reply.delay_ms
            ticker = self._tickers.setdefault(delay_ms, _Ticker(delay_ms))
            self._running[speaker.work.key] = ticker
            if speaker.reply.first_token_ms:
                self._loop.call_later(
                    speaker.reply.first_token_ms / 1000, self._join, ticker, speaker
                )
            else:
                self._join(ticker, speaker)

    def _join(self, ticker: _Ticker, speaker: _Speaker) -> None:
        if self._running.get(speaker.work.key) is ticker:
            ticker.speakers[speaker.work.key] = speaker
            self._set(ticker)

    def _set(self, ticker: _Ticker) -> None:
        if ticker.is_set or not ticker.speakers:
            return
        ticker.is_set = True
        if ticker.delay_ms == _NO_DELAY_MS:
            self._loop.call_soon(self._tick, ticker)
        else:
            delay_s = ticker.delay_ms / 1000
            due = (math.floor(self._loop.time() / delay_s) + 1) * delay_s
            self._loop.call_at(due, self._tick, ticker)

    def _tick(self, ticker: _Ticker) -> None:
        ticker.is_set = False
        outputs = [out for s in ticker.speakers.values() if (out := self._step(s)) is not None]
        for output in outputs:
            if output.ended is not None:
                del ticker.speakers[output.key]
                del self._running[output.key]
                self._release(output.key)
        self._receiver.deliver(outputs)
        if any(s.at < len(s.token_ids) or not s.reply.hangs for s in ticker.speakers.values()):
            self._set(ticker)
        self._promote()

    def _step(self, speaker: _Speaker) -> Output | None:
        """The next token, and the end when it is the last."""
        work, reply = speaker.work, speaker.reply
        fail = reply.fail
        if fail is not None and speaker.at == fail.after_tokens:
            return Output(work.key, ended=RefusedError(fail.kind, fail.message, fail.param))
        if speaker.at == reply.dies_after_tokens:
            os.kill(os.getpid(), signal.SIGKILL)
        output = Output(work.key)
        if speaker.at == 0 and work.sampling.prompt_logprobs is not None:
            output.prompt_scores = self._score_prompt(work)
        if speaker.at >= work.max_tokens:
            output.ended = Ended(FinishReason.LENGTH)
            return output
        if speaker.at >= len(speaker.token_ids):
            if not reply.hangs:
                output.ended = Ended(reply.finish)
            return output if output.ended or output.prompt_scores else None
        token_id = speaker.token_ids[speaker.at]
        speaker.at += 1
        self._generated_tokens += 1
        if token_id in work.stop_ids and speaker.at > work.sampling.min_tokens:
            output.ended = Ended(FinishReason.STOP, token_id)
            return output
        output.token_ids = (token_id,)
        if work.sampling.logprobs is not None:
            output.scores = [_score(token_id, work.sampling.logprobs)]
        return output

    def _score_prompt(self, work: Work) -> list[Score]:
        num_top = work.sampling.prompt_logprobs or 0
        scores = [_score(token_id, num_top) for token_id in work.prompt_ids]
        scores[0] = Score(math.nan, [])
        return scores


class _ScriptedAdapters:
    """Any adapter with a configuration will do; no weights are read."""

    def __init__(self, load_ms: float) -> None:
        self._load_ms = load_ms

    async def check(self, adapter: AdapterRef) -> None:
        if not (Path(adapter.path) / "adapter_config.json").is_file():
            message = f"The adapter {adapter.name!r} has no files."
            raise RefusedError(FailureKind.ADAPTER_NOT_FOUND, message, "model")

    async def load(self, adapter: AdapterRef) -> None:
        """There is nothing to load; it takes the time that the script says."""
        await asyncio.sleep(self._load_ms / 1000)

    async def drop(self, adapter: AdapterRef) -> None:
        """Nor to drop."""


def _score(token_id: int, num_top: int) -> Score:
    """Made up, but in order: the token itself, then the first ids of the vocabulary."""
    others = [i for i in range(0, 2 * num_top + 2, 2) if i != token_id]
    ranked = [token_id, *others][:num_top]
    return Score(-0.125, [(other, -0.125 - rank) for rank, other in enumerate(ranked)])


def _check_json(source: str) -> None:
    try:
        json.loads(source)
    except ValueError as error:
        message = f"The schema is not JSON: {error}."
        raise RefusedError(FailureKind.INVALID_GRAMMAR, message, "response_format") from error
