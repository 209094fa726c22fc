"""What a model must show at start before it is served in batches.

Two prompts run through our attention as they would beside each other in the engine: in chunks, then
token by token, one of them far behind at the end of the context. Each must get the logits that the
stock model gives it alone. Windows and chunks are narrow meanwhile, so the prompts cross them. What
looks at its neighbours in any other way than through attention (recurrent layers, convolutions over
tokens, angles chosen by the longest sequence) fails here.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from workers.contract.parts import Sampling
from workers.engine.backend import Work
from workers.engine.hf.attention import SlotAttention, attach, detach
from workers.engine.hf.context import own_length
from workers.engine.hf.kv import SlotCache
from workers.engine.hf.loaded import LoadedModel
from workers.engine.hf.lora.plan import AdapterStep
from workers.engine.hf.media.host import HfMedia
from workers.engine.hf.memory import is_out_of_memory
from workers.engine.hf.packing import Packed, lay_out, pack
from workers.engine.hf.prefixes import Rows
from workers.engine.hf.recording import (
    NotBatchedError,
    check_cache,
    implement,
    recording,
    widen,
)
from workers.engine.hf.scheduler import Scheduler
from workers.engine.hf.sequence import Sequence
from workers.engine.hf.slabs import MIN_LENGTH, token_bytes
from workers.models.comparison import TOLERANCE, difference, probe_ids
from workers.models.narrowing import NARROWEST, narrowed

log = logging.getLogger(__name__)

_LENGTHS = (3 * NARROWEST + 5, 2 * NARROWEST + 3)
_NUM_DECODED = 4
"""Of each prompt's tokens, the last that come one at a time."""
_STEP_TOKENS = 12
"""Prompts are computed in chunks of at most so many."""


def prove_batching(
    model: Any, max_model_len: int, media: HfMedia | None, *, verify: bool
) -> SlotAttention:
    """Puts our attention into the model. Raises NotBatchedError with the model as it was."""
    stock_name = _stock_name(model)
    attention = attach(model)
    try:
        check_cache(model.config)
        with torch.inference_mode(), narrowed(model) as wide:
            _prove(model, attention, max_model_len, media, verify=verify)
        widen(attention, wide)
    except Exception as error:
        detach(model)
        implement(model, stock_name)
        if isinstance(error, NotBatchedError) or is_out_of_memory(error):
            raise
        log.info("batching is not possible", exc_info=True)
        raise NotBatchedError(
            f"its forward pass fails in a batch ({type(error).__name__})"
        ) from error
    return attention


def _stock_name(model: Any) -> str | None:
    return model.config.get_text_config()._attn_implementation


def _prove(
    model: Any,
    attention: SlotAttention,
    max_model_len: int,
    media: HfMedia | None,
    *,
    verify: bool,
) -> None:
    vocab_size: int = model.config.get_text_config().vocab_size
    longest = own_length(model.config) or max(_LENGTHS)
    lengths = [min(length, longest) for length in _LENGTHS]
    prompts = [probe_ids(length, vocab_size, n) for n, length in enumerate(lengths)]
    firsts = [0, max(0, max_model_len - lengths[1])]
    pairs = list(zip(prompts, firsts, strict=True))
    stock = [_alone(model, prompt, first) for prompt, first in pairs] if verify else []
    with recording(model, attention):
        _alone(model, prompts[0], 0)
    if not verify:
        return
    loaded = LoadedModel(
        model, attention, AdapterStep(), {}, model.device, model.dtype, max_model_len, media
    )
    ours = _together(loaded, prompts, firsts)
    for expected, found in zip(stock, ours, strict=True):
        apart = difference(expected, found)
        log.info("attention verified", extra={"difference": apart})
        if not apart <= TOLERANCE[model.dtype]:
            raise NotBatchedError("in a batch its logits are not those that it gives alone")


def _alone(model: Any, ids: list[int], first: int) -> Tensor:
    """Float32 [T, V]; the first token has position `first`."""
    ids_1T = torch.tensor([ids], device=model.device)
    positions = torch.arange(first, first + len(ids), device=model.device)[None]
    return model(input_ids=ids_1T, position_ids=positions, use_cache=False).logits[0].float()


def _together(loaded: LoadedModel, prompts: list[list[int]], firsts: list[int]) -> list[Tensor]:
    """The same through the engine's own steps and a cache."""
    attention = loaded.attention
    layers = [attention.seen[index] for index in sorted(attention.seen)]
    longest = max(len(prompt) for prompt in prompts)
    cache = SlotCache(
        layers,
        dtype=loaded.dtype,
        device=loaded.device,
        budget_bytes=token_bytes(layers, loaded.dtype) * 4 * max(longest, MIN_LENGTH),
        max_length=longest,
    )
    rows = Rows(cache, 0)
    scheduler = Scheduler(rows, None, max_rows=len(prompts), prefill_tokens=_STEP_TOKENS)
    sequences = [_sequence(key, prompt) for key, prompt in enumerate(prompts)]
    for sequence in sequences:
        scheduler.waiting.add(sequence)
    logits: list[list[Tensor]] = [[] for _ in prompts]
    try:
        while any(len(parts) < len(ids) for parts, ids in zip(logits, prompts, strict=True)):
            _step(loaded, scheduler, prompts, firsts, logits)
    finally:
        attention.layout = None
    return [torch.stack(parts) for parts in logits]


def _sequence(key: int, prompt: list[int]) -> Sequence:
    """All but its last tokens are its prompt, whose logits are all wanted."""
    sampling = Sampling(prompt_logprobs=0)
    known = prompt[: max(1, len(prompt) - _NUM_DECODED)]
    return Sequence(Work(key, known, sampling, len(prompt) - len(known), frozenset()))


def _step(
    loaded: LoadedModel,
    scheduler: Scheduler,
    prompts: list[list[int]],
    firsts: list[int],
    logits: list[list[Tensor]],
) -> None:
    scheduler.admit()
    step = scheduler.plan()
    slices = [*step.decode, *step.chunks]
    packed = pack(slices)
    lay_out(loaded, None, step, packed.positions)
    shifts = [
        firsts[part.sequence.work.key] for part in slices for _ in range(part.start, part.end)
    ]
    positions = [place + shift for place, shift in zip(packed.positions, shifts, strict=True)]
    rows = Packed(packed.ids, positions, list(range(len(packed.ids)))).logits(loaded)
    for part, found in zip(slices, rows.split([p.end - p.start for p in slices]), strict=True):
        logits[part.sequence.work.key] += found
        part.sequence.row.num_computed = part.end
    for part in slices:
        if part.completes:
            _go_on(scheduler, part.sequence, prompts[part.sequence.work.key])


def _go_on(scheduler: Scheduler, sequence: Sequence, prompt: list[int]) -> None:
    """With the next token of `prompt`, which stands for what would be sampled."""
    sequence.prompt_scores = None
    if len(sequence.tokens) < len(prompt):
        sequence.append(prompt[len(sequence.tokens)])
    else:
        scheduler.drop(sequence)
