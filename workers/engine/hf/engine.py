"""The engine's thread: it alone touches model, cache and adapters, and is reached by a queue.

One turn: take what has arrived, plan a step, run it, sample, hand the outputs out.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from workers.contract.messages import FailureKind, FinishReason, Stats
from workers.engine.backend import Ended, Output, RefusedError, Score
from workers.engine.hf.commands import Cancel, Command, Load, Stop, Submit, Unload
from workers.engine.hf.compatible.turns import Turns
from workers.engine.hf.lora.places import AdapterPlaces
from workers.engine.hf.memory import is_out_of_memory
from workers.engine.hf.model import LoadedModel
from workers.engine.hf.pooled import PooledBatch, PoolQueue
from workers.engine.hf.prefixes import Rows
from workers.engine.hf.sampling import Sampler, score_tokens
from workers.engine.hf.scheduler import Scheduler, Slice, Step
from workers.engine.hf.sequence import Sequence

log = logging.getLogger(__name__)

_MAX_ERRORS_IN_A_ROW = 3


class Forward(Protocol):
    """How a step's tokens go through the model."""

    def logits(self, step: Step) -> Tensor:
        """Float32 [N, V], slice by slice: of all tokens where a prompt is scored, of the last where
        the next token can be sampled after it, else of none."""
        ...


class Engine:
    """`deliver` and `die` are called on the engine's thread."""

    def __init__(
        self,
        loaded: LoadedModel,
        forward: Forward,
        scheduler: Scheduler | Turns,
        rows: Rows | Turns,
        places: AdapterPlaces | None,
        sampler: Sampler,
        pools: PoolQueue | None,
        *,
        deliver: Callable[[list[Output]], None],
        die: Callable[[str], None],
    ) -> None:
        self._loaded = loaded
        self._forward = forward
        self._scheduler = scheduler
        self._rows = rows
        self._places = places
        self._sampler = sampler
        self._pools = pools
        self._deliver = deliver
        self._die = die
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._sequences: dict[int, Sequence] = {}
        self._unloads: list[Unload] = []
        self._num_arrived = 0
        self._num_prompt = self._num_cached = self._num_generated = 0
        self._errors_in_a_row = 0
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def tell(self, command: Command) -> None:
        self._commands.put(command)

    def stop(self, timeout_s: float) -> None:
        self._commands.put(Stop())
        self._thread.join(timeout_s)

    def stats(self, kv_usage: float) -> Stats:
        """Read from another thread: counts may be a step old."""
        places = self._places
        return Stats(
            running=self._rows.num_active,
            waiting=len(self._scheduler.waiting),
            kv_usage=kv_usage,
            adapters=list(places.names) if places else [],
            adapter_hits=places.num_hits if places else 0,
            adapter_loads=places.num_loads if places else 0,
            adapter_evictions=places.num_evictions if places else 0,
            prompt_tokens=self._num_prompt,
            cached_tokens=self._num_cached,
            generated_tokens=self._num_generated,
        )

    # --- the thread -------------------------------------------------------------------------------

    @torch.inference_mode()
    def _run(self) -> None:
        try:
            while self._receive():
                self._turn()
        except Exception as error:
            log.exception("engine thread failed")
            self._die(type(error).__name__)

    def _receive(self) -> bool:
        """Takes all that has arrived; waits for something if there is nothing to do."""
        is_idle = not self._sequences and not self._unloads and not self._pools
        while True:
            try:
                command = self._commands.get(block=is_idle)
            except queue.Empty:
                return not self._is_stopping
            self._obey(command)
            is_idle = False

    def _obey(self, command: Command) -> None:
        match command:
            case Submit(sequences):
                for sequence in sequences:
                    self._num_arrived += 1
                    sequence.arrival = self._num_arrived
                    self._sequences[sequence.work.key] = sequence
                    self._scheduler.waiting.add(sequence)
                    self._num_prompt += sequence.num_prompt
            case Cancel(key):
                sequence = self._sequences.pop(key, None)
                if sequence is not None:
                    self._scheduler.drop(sequence)
            case Load(weights, done):
                if self._places is not None:
                    self._places.load(weights)
                done.set_result(None)
            case Unload():
                self._unloads.append(command)
            case PooledBatch():
                if self._pools is not None:
                    self._pools.add(command)
            case Stop():
                self._is_stopping = True

    def _turn(self) -> None:
        self._settle_unloads()
        if self._pools:
            self._pools.run_one()
        if not self._sequences:
            return
        try:
            outputs = self._step()
            self._errors_in_a_row = 0
        except (MemoryError, RuntimeError) as error:
            outputs = self._survive(error)
        if outputs:
            self._deliver(outputs)

    def _settle_unloads(self) -> None:
        waiting: list[Unload] = []
        for unload in self._unloads:
            is_wanted = any(s.adapter_uid == unload.uid for s in self._sequences.values())
            is_wanted = is_wanted or (self._pools is not None and self._pools.wants(unload.uid))
            if is_wanted or (self._places is not None and not self._places.unload(unload.uid)):
                waiting.append(unload)
            else:
                self._rows.forget_kept(unload.uid)
                unload.done.set_result(None)
        self._unloads = waiting

    def _survive(self, error: Exception) -> list[Output]:
        """Out of memory costs the sequence under admission or else the youngest running one,
        another error all running ones; what the others have computed is untouched, and the step is
        run again without the failed."""
        active = self._rows.active
        admitting = self._scheduler.admitting
        if is_out_of_memory(error):
            log.warning("out of memory", extra={"running": len(active)})
            self._rows.forget_kept()
            victims = [max(active, key=lambda s: s.rank)] if active else []
            victims = [admitting] if admitting is not None else victims
            kind, message = FailureKind.OUT_OF_MEMORY, "The engine ran out of memory."
            if self._loaded.device.type == "cuda":
                torch.cuda.empty_cache()
        else:
            log.exception("step failed", extra={"running": len(active)})
            self._errors_in_a_row += 1
            if self._errors_in_a_row >= _MAX_ERRORS_IN_A_ROW:
                raise error
            victims = [*active, admitting] if admitting is not None else list(active)
            kind, message = FailureKind.INTERNAL, "The engine met an internal error."
        for victim in victims:
            del self._sequences[victim.work.key]
            self._scheduler.drop(victim)
        return [Output(v.work.key, ended=RefusedError(kind, message)) for v in victims]

    # --- one step ---------------------------------------------------------------------------------

    def _step(self) -> list[Output]:
        forked = self._scheduler.admit()
        if forked:
            self._deliver(self._begin(forked))
        step = self._scheduler.plan()
        slices = [*step.decode, *step.chunks]
        return self._advance(slices, self._forward.logits(step)) if slices else []

    def _advance(self, slices: list[Slice], logits_NV: torch.Tensor) -> list[Output]:
        """Scores prompts, samples what is complete, and ends what has ended."""
        sampled: list[Sequence] = []
        sampled_at: list[int] = []
        outputs: dict[int, Output] = {}
        at = 0
        for part in slices:
            sequence = part.sequence
            size = 0
            if sequence.prompt_scores is not None and not sequence.num_output:
                size = part.end - part.start
                self._score_prompt(part, logits_NV[at : at + size])
            elif part.completes:
                size = 1
            at += size
            sequence.row.num_computed = part.end
            if not part.completes:
                continue
            output = outputs[sequence.work.key] = Output(sequence.work.key)
            if not sequence.num_output:
                self._num_cached += sequence.num_cached
                if self._rows.shares_prompts:
                    sequence.prompt_logits_V = logits_NV[at - 1].clone()  # sampling changes them
                output.prompt_scores, sequence.prompt_scores = sequence.prompt_scores, None
            if sequence.work.max_tokens == 0:
                self._end(output, sequence, FinishReason.LENGTH)
            else:
                sampled.append(sequence)
                sampled_at.append(at - 1)
        if sampled:
            whole = len(sampled) == logits_NV.shape[0]
            self._sample(outputs, sampled, logits_NV if whole else logits_NV[sampled_at])
        return list(outputs.values())

    def _begin(self, forked: list[Sequence]) -> list[Output]:
        """Samples the first tokens of sequences whose prompts others have computed."""
        outputs = {sequence.work.key: Output(sequence.work.key) for sequence in forked}
        sampled: list[Sequence] = []
        logits: list[torch.Tensor] = []
        for sequence in forked:
            self._num_cached += sequence.num_cached
            if sequence.work.max_tokens == 0:
                self._end(outputs[sequence.work.key], sequence, FinishReason.LENGTH)
            else:
                assert sequence.prompt_logits_V is not None, "they came with the prompt"
                sampled.append(sequence)
                logits.append(sequence.prompt_logits_V)
        if sampled:
            self._sample(outputs, sampled, torch.stack(logits))
        return list(outputs.values())

    def _sample(
        self, outputs: dict[int, Output], sampled: list[Sequence], logits_NV: torch.Tensor
    ) -> None:
        ids, scores = self._sampler.sample(logits_NV, sampled)
        for sequence, token_id, score in zip(sampled, ids, scores, strict=True):
            self._take(outputs[sequence.work.key], sequence, token_id, score)

    def _score_prompt(self, part: Slice, logits_NV: torch.Tensor) -> None:
        """The logits at a token score the next one; the first token has none."""
        sequence = part.sequence
        assert sequence.prompt_scores is not None
        if part.start == 0:
            sequence.prompt_scores.append(Score(math.nan, []))
        end = min(part.end + 1, sequence.num_prompt)
        following = sequence.tokens[part.start + 1 : end].tolist()
        if following:
            sequence.prompt_scores += score_tokens(
                logits_NV[: len(following)], following, sequence.sampling.prompt_logprobs or 0
            )

    def _take(self, output: Output, sequence: Sequence, token_id: int, score: Score | None) -> None:
        self._num_generated += 1
        work, grammar = sequence.work, sequence.grammar
        if grammar is not None and grammar.is_too_slow:
            self._refuse(output, sequence, "The grammar is too ambiguous to be followed further.")
            return
        if grammar is not None and not grammar.accept(token_id):
            # Nothing may follow: the masks left no token at all.
            self._end(output, sequence, FinishReason.STOP)
            return
        if token_id in work.stop_ids and sequence.num_output >= work.sampling.min_tokens:
            self._end(output, sequence, FinishReason.STOP, token_id)
            return
        sequence.append(token_id)
        output.token_ids = (token_id,)
        if score is not None:
            output.scores = [score]
        if grammar is not None and grammar.is_complete:
            self._end(output, sequence, FinishReason.STOP)
        elif sequence.num_output >= work.max_tokens:
            self._end(output, sequence, FinishReason.LENGTH)

    def _refuse(self, output: Output, sequence: Sequence, message: str) -> None:
        output.ended = RefusedError(FailureKind.INVALID_GRAMMAR, message, "response_format")
        del self._sequences[sequence.work.key]
        self._scheduler.finish(sequence)

    def _end(
        self,
        output: Output,
        sequence: Sequence,
        reason: FinishReason,
        stop_id: int | None = None,
    ) -> None:
        output.ended = Ended(reason, stop_id, sequence.num_cached)
        del self._sequences[sequence.work.key]
        self._scheduler.finish(sequence)
