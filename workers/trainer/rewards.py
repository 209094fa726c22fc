"""What scores the answers of a policy: a model beside it, or a server."""

from __future__ import annotations

import http.client
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import torch
from torch.nn.utils.rnn import pad_sequence

from workers.contract.training import TrainSpec
from workers.trainer.failures import InvalidHyperparameters, TrainerError
from workers.trainer.frozen import load_frozen
from workers.trainer.models import TrainedModel
from workers.trainer.value_head import read_head

_TIMEOUT_S = 300.0
_MAX_ANSWER_BYTES = 1024 * 1024
_PARAM = "reward_model"
_ANSWERS_AT_ONCE = 8

Decode = Callable[[Sequence[int]], str]


class Rewards(Protocol):
    def score(self, answers: Sequence[list[int]]) -> torch.Tensor:
        """[answers] of whole conversations. Raises TrainerError."""
        ...


def open_rewards(
    spec: TrainSpec, policy: TrainedModel, same_tokens: Callable[[Path], bool], decode: Decode
) -> Rewards:
    """`same_tokens` tells whether the ids of a model's folder are the policy's. Raises
    TrainerError."""
    wanted = spec.ppo
    assert wanted.reward_model is not None, "checked when the run began"
    if wanted.reward_model_type == "api":
        return ServerRewards(wanted.reward_model, decode)
    is_adapter = wanted.reward_model_type == "lora"
    path = Path(wanted.reward_model)
    base = Path(spec.model.model_name_or_path) if is_adapter else path
    if not same_tokens(base):
        raise InvalidHyperparameters(
            "The reward model has another tokenizer than the policy: score with it through "
            "reward_model_type 'api'.",
            _PARAM,
        )
    return ModelRewards(load_frozen(spec, base, path if is_adapter else None, _PARAM), policy, path)


class ModelRewards:
    """A value head on the hidden state of the last token, as reward models are trained here."""

    def __init__(self, module: Any, policy: TrainedModel, folder: Path) -> None:
        self._module = module
        self._policy = policy
        width: int = module.config.get_text_config().hidden_size
        self._head = torch.nn.Linear(width, 1).requires_grad_(False).to(policy.device)
        read_head(self._head, folder, _PARAM)

    @torch.no_grad()
    def score(self, answers: Sequence[list[int]]) -> torch.Tensor:
        parts = [
            self._scored(answers[at : at + _ANSWERS_AT_ONCE])
            for at in range(0, len(answers), _ANSWERS_AT_ONCE)
        ]
        return torch.cat(parts)

    def _scored(self, answers: Sequence[list[int]]) -> torch.Tensor:
        ids = pad_sequence([torch.tensor(each) for each in answers], batch_first=True)
        inputs = {"input_ids": ids.to(self._policy.device), "use_cache": False}
        with self._policy.autocast():
            hidden = self._module.base_model(**inputs).last_hidden_state
        last = torch.tensor([len(each) - 1 for each in answers], device=hidden.device)
        at_last = hidden[torch.arange(len(answers), device=hidden.device), last]
        return self._head(at_last.float())[:, 0].cpu()


class ServerRewards:
    """Posts `{"model": "model", "messages": [text, ...]}` and reads `scores`, as LLaMA-Factory
    does. Follows no redirect: the address is the one that was checked."""

    def __init__(self, url: str, decode: Decode) -> None:
        self._url = urlsplit(url)
        self._decode = decode

    def score(self, answers: Sequence[list[int]]) -> torch.Tensor:
        body = {"model": "model", "messages": [self._decode(each) for each in answers]}
        try:
            scores = self._ask(json.dumps(body).encode())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _no_scores(type(error).__name__) from error
        if len(scores) != len(answers):
            raise _no_scores(f"{len(scores)} scores for {len(answers)} texts")
        return torch.tensor(scores)

    def _ask(self, body: bytes) -> list[float]:
        """Raises OSError, HTTPException, ValueError."""
        url = self._url
        is_tls = url.scheme == "https"
        kind = http.client.HTTPSConnection if is_tls else http.client.HTTPConnection
        connection = kind(url.hostname or "", url.port, timeout=_TIMEOUT_S)
        try:
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read(_MAX_ANSWER_BYTES + 1)
        finally:
            connection.close()
        if answer.status != 200:
            raise _no_scores(f"status {answer.status}")
        if len(content) > _MAX_ANSWER_BYTES:
            raise _no_scores("an answer that is too long")
        read: Any = json.loads(content)
        scores: Any = read.get("scores") if isinstance(read, dict) else None
        if not isinstance(scores, list) or not all(map(_is_number, scores)):
            raise _no_scores("no 'scores' of numbers")
        return [float(each) for each in scores]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _no_scores(why: str) -> TrainerError:
    return TrainerError(f"The reward server gave no scores: {why}.", _PARAM)
