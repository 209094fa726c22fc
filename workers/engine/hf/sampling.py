"""From logits to tokens, all rows of a step at once.

Each row draws one uniform number of its own per token, and which of the two ways below it is
sampled by depends on its own parameters alone: so a seed gives the same tokens alone and in company
(as far as the logits do: matrix products differ in the last bits between batch sizes).

Order, as in vLLM: bias, penalties, masks, temperature, min_p, top_k, top_p. Logprobs are those of
the model's own distribution, before all of it.

Shape letters: N rows, V vocabulary, C candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Rows

import torch
from torch import Tensor

from workers.engine.backend import Score
from workers.engine.hf.grammar import GrammarCompiler, GrammarState
from workers.engine.hf.sequence import Sequence

_NUM_CANDIDATES = 256
"""Sorted before the whole vocabulary is: nearly always enough for top_p."""
MIN_LOGPROB = -9999.0


class Sampler:
    def __init__(self, grammars: GrammarCompiler | None) -> None:
        self._grammars = grammars

    def sample(
        self, logits_NV: Tensor, rows: Rows[Sequence]
    ) -> tuple[list[int], list[Score | None]]:
        """The next token of each row, with its score where asked for. Changes the logits."""
        scored = [n for n, row in enumerate(rows) if row.sampling.logprobs is not None]
        raw = logits_NV[scored] if scored else None
        self._shape(logits_NV, rows)
        ids = _pick(logits_NV, rows)
        scores: list[Score | None] = [None] * len(rows)
        if raw is not None:
            num_top = max(rows[n].sampling.logprobs or 0 for n in scored)
            found = score_tokens(raw, [ids[n] for n in scored], num_top)
            for n, score in zip(scored, found, strict=True):
                wanted = rows[n].sampling.logprobs or 0
                scores[n] = Score(score.logprob, score.top[:wanted])
        return ids, scores

    def _shape(self, logits_NV: Tensor, rows: Rows[Sequence]) -> None:
        bound: list[tuple[int, GrammarState]] = []
        for n, row in enumerate(rows):
            sampling = row.sampling
            if sampling.logit_bias:
                ids, values = zip(*sampling.logit_bias.items(), strict=True)
                logits_NV[n, list(ids)] += torch.tensor(values, device=logits_NV.device)
            if row.has_penalties:
                _penalise(logits_NV[n], row)
            if row.num_output < sampling.min_tokens and row.work.stop_ids:
                logits_NV[n, list(row.work.stop_ids)] = -math.inf
            if row.grammar is not None:
                bound.append((n, row.grammar))
        if bound and self._grammars is not None:
            self._grammars.mask(logits_NV, [n for n, _ in bound], [state for _, state in bound])


def score_tokens(logits_NV: Tensor, ids: Rows[int], num_top: int) -> list[Score]:
    """Logprob of `ids[n]` in row n, and its most likely tokens."""
    norm_N1 = torch.logsumexp(logits_NV, -1, keepdim=True)
    chosen = logits_NV.gather(-1, torch.tensor(ids, device=logits_NV.device)[:, None]) - norm_N1
    chosen_list = chosen.squeeze(-1).clamp_min(MIN_LOGPROB).tolist()
    if not num_top:
        return [Score(value, []) for value in chosen_list]
    top = torch.topk(logits_NV, num_top, -1)
    values = (top.values - norm_N1).clamp_min(MIN_LOGPROB).tolist()
    return [
        Score(value, list(zip(top_ids, top_values, strict=True)))
        for value, top_ids, top_values in zip(
            chosen_list, top.indices.tolist(), values, strict=True
        )
    ]


def _penalise(logits_V: Tensor, row: Sequence) -> None:
    """Repetition as in Hugging Face, over prompt and output; frequency and presence as OpenAI
    defines them, over the output."""
    sampling, device = row.sampling, logits_V.device
    if sampling.repetition_penalty != 1:
        ids = torch.tensor(sorted(set(row.tokens)), device=device)
        values = logits_V[ids]
        penalty = sampling.repetition_penalty
        logits_V[ids] = torch.where(values > 0, values / penalty, values * penalty)
    counts = row.output_counts
    if counts and (sampling.frequency_penalty or sampling.presence_penalty):
        ids = torch.tensor(list(counts), device=device)
        times = torch.tensor(list(counts.values()), dtype=logits_V.dtype, device=device)
        logits_V[ids] -= times * sampling.frequency_penalty + sampling.presence_penalty


def _pick(logits_NV: Tensor, rows: Rows[Sequence]) -> list[int]:
    plain: list[int] = []
    filtered: list[int] = []
    for n, row in enumerate(rows):
        s = row.sampling
        if s.temperature > 0:
            (filtered if s.top_k or s.top_p < 1 or s.min_p else plain).append(n)
    all_drawn = len(plain) + len(filtered) == len(rows)
    ids = [0] * len(rows) if all_drawn else _largest(logits_NV)
    for group, pick in ((plain, _pick_plain), (filtered, _pick_filtered)):
        if group:
            chosen_rows = [rows[n] for n in group]
            logits = logits_NV if len(group) == len(rows) else logits_NV[group]
            temperature = _column([row.sampling.temperature for row in chosen_rows], logits)
            # Shifted so that the largest is 0: dividing by a tiny temperature stays finite.
            scaled = (logits - logits.amax(-1, keepdim=True)) / temperature
            uniform = _column([row.draw() for row in chosen_rows], logits)
            for n, token_id in zip(group, pick(scaled, uniform, chosen_rows), strict=True):
                ids[n] = token_id
    return ids


def _largest(logits_NV: Tensor) -> list[int]:
    """On CPU NumPy's argmax takes a tenth of torch's time."""
    if logits_NV.device.type == "cpu":
        return logits_NV.numpy().argmax(-1).tolist()
    return torch.argmax(logits_NV, -1).tolist()


def _pick_plain(scaled_NV: Tensor, uniform_N1: Tensor, _: Rows[Sequence]) -> list[int]:
    return _invert(torch.softmax(scaled_NV, -1), uniform_N1).squeeze(-1).tolist()


def _pick_filtered(scaled_NV: Tensor, uniform_N1: Tensor, rows: Rows[Sequence]) -> list[int]:
    vocabulary = scaled_NV.shape[-1]
    largest_k = max((row.sampling.top_k for row in rows), default=0)
    num_candidates = min(max(_NUM_CANDIDATES, min(largest_k, 4 * _NUM_CANDIDATES)), vocabulary)
    ids, is_enough = _pick_among(scaled_NV, uniform_N1, rows, num_candidates)
    if num_candidates < vocabulary and not all(is_enough):
        short = [n for n, enough in enumerate(is_enough) if not enough]
        again, _ = _pick_among(
            scaled_NV[short], uniform_N1[short], [rows[n] for n in short], vocabulary
        )
        for n, token_id in zip(short, again, strict=True):
            ids[n] = token_id
    return ids


def _pick_among(
    scaled_NV: Tensor, uniform_N1: Tensor, rows: Rows[Sequence], num_candidates: int
) -> tuple[list[int], list[bool]]:
    """Samples among the most likely tokens; says for which rows those hold all that the row's
    filters let through."""
    top = torch.topk(scaled_NV, num_candidates, -1)
    norm_N1 = torch.logsumexp(scaled_NV, -1, keepdim=True)
    probs_NC = torch.exp(top.values - norm_N1)
    limits = [row.sampling.top_k or scaled_NV.shape[-1] for row in rows]
    rank_C = torch.arange(num_candidates, device=scaled_NV.device)
    limit_N1 = _column(limits, scaled_NV)
    top_p_N1 = _column([row.sampling.top_p for row in rows], scaled_NV)
    floor_N1 = _column([row.sampling.min_p for row in rows], scaled_NV) * probs_NC[:, :1]
    kept_NC = (rank_C < limit_N1) & (probs_NC >= floor_N1)
    probs_NC = probs_NC * kept_NC
    # top_p counts shares of what min_p and top_k left; unfiltered, that is everything.
    below_N1 = probs_NC.sum(-1, keepdim=True)
    is_cut_N1 = (limit_N1 <= num_candidates) | ~kept_NC[:, -1:]
    total_N1 = torch.where(is_cut_N1, below_N1, torch.ones_like(below_N1))
    shares_NC = torch.cumsum(probs_NC, -1) / total_N1
    in_nucleus_NC = shares_NC - probs_NC / total_N1 < top_p_N1
    in_nucleus_NC[:, 0] = True
    is_enough = (is_cut_N1 | (shares_NC[:, -1:] >= top_p_N1)).squeeze(-1).tolist()
    place = _invert(probs_NC * in_nucleus_NC, uniform_N1)
    return top.indices.gather(-1, place).squeeze(-1).tolist(), is_enough


def _invert(weights_NC: Tensor, uniform_N1: Tensor) -> Tensor:
    """Where the running sum passes `uniform` times the whole; never at a weight of zero."""
    sums_NC = torch.cumsum(weights_NC, -1)
    target_N1 = uniform_N1 * sums_NC[:, -1:]
    place = torch.searchsorted(sums_NC, target_N1, right=True)
    last = torch.count_nonzero(sums_NC < sums_NC[:, -1:], -1)[:, None]
    return torch.minimum(place, last)


def _column(values: Rows[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
