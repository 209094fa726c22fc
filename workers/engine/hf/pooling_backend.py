"""Models that do not generate: text encoders, embedding models, reward models with one score.

They run stock attention with a padding mask. A reward model is a sequence classifier with one
label, or a causal model beside a value head: LLaMA-Factory writes `value_head.safetensors` with
trl's names, `v_head.summary.weight` and `.bias`; its score is the head's value at the last token.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification

from workers.contract.hello import Capability
from workers.contract.messages import Stats
from workers.contract.model_files import VALUE_HEAD_FILE
from workers.engine.backend import (
    Description,
    PoolingHost,
    Receiver,
)
from workers.engine.hf.model import DTYPES, choose_device
from workers.engine.hf.pooled import BATCH_TOKENS, HfPooling, PooledBatch, pad, settle
from workers.engine.hf.pooling import PoolingKind, pool, read_json, read_pooling
from workers.engine.hf.preparing import attention_name
from workers.engine.hf.settings import HfSettings
from workers.engine.hf.task import Task
from workers.engine.pools_only import PoolsOnly
from workers.engine.spec import EngineSpec, SpecError
from workers.engine.text.pretrained import PretrainedVocabulary


@dataclass(slots=True)
class _Model:
    body: Any
    head: nn.Module | None
    """From hidden states to one value a token; None: the body itself scores or embeds."""
    pooling: PoolingKind | None
    """None: a classifier that pools by itself."""
    is_encoder: bool

    def rows(self, batch: PooledBatch) -> Tensor:
        """[B, H] embeddings or [B, 1] scores."""
        ids_BT, lengths = pad(batch.prompts, self.body.device)
        places = torch.arange(ids_BT.shape[1], device=ids_BT.device)[None, :]
        mask = (places < torch.tensor(lengths, device=ids_BT.device)[:, None]).long()
        result = self.body(input_ids=ids_BT, attention_mask=mask)
        if self.pooling is None:
            return result.logits.float().cpu()
        pooled = pool(result.last_hidden_state, lengths, self.pooling)
        if self.head is not None:
            weight: Any = next(self.head.parameters())
            pooled = self.head(pooled.to(weight.dtype)).float()
        return pooled.cpu()


class HfPoolingBackend(PoolsOnly):
    def __init__(
        self,
        spec: EngineSpec,
        settings: HfSettings,
        task: Task,
        vocabulary: PretrainedVocabulary,
    ) -> None:
        self._spec = spec
        self._settings = settings
        self._task = task
        self._vocabulary = vocabulary
        for name in ("rope_scaling", "quantization_bit", "merged_adapters"):
            if getattr(settings, name) is not None:
                raise SpecError(f"settings: {name} is for models that generate")
        self._pooling = read_pooling(spec.model_path or "", settings)
        if task is Task.EMBED and self._pooling is None:
            raise SpecError(
                "the model declares no pooling: name it in settings (pooling: mean, last or cls)"
            )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pooling")
        self._host: HfPooling | None = None
        self._num_waiting = 0
        self._num_tokens = 0

    async def start(self, receiver: Receiver) -> Description:
        loop = asyncio.get_running_loop()
        self._model = await loop.run_in_executor(self._thread, self._load)
        body = self._model.body
        frames = self._task is Task.EMBED or self._model.is_encoder
        self._host = HfPooling(
            self._submit,
            BATCH_TOKENS[body.device.type],
            pooling=self._pooling,
            hidden_size=body.config.get_text_config().hidden_size,
            frame=self._vocabulary.frame if frames else ([], []),
        )
        capability = Capability.EMBED if self._task is Task.EMBED else Capability.SCORE
        return Description(
            engine=f"hf/{transformers.__version__}",
            max_model_len=_max_length(self._model, self._vocabulary.tokenizer, self._spec),
            capabilities=frozenset({capability}),
        )

    @property
    def pooling(self) -> PoolingHost | None:
        return self._host

    def stats(self) -> Stats:
        running = min(1, self._num_waiting)
        return Stats(running, self._num_waiting - running, 0.0, prompt_tokens=self._num_tokens)

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _submit(self, batch: PooledBatch) -> None:
        self._num_waiting += 1
        self._thread.submit(self._run, batch)

    @torch.inference_mode()
    def _run(self, batch: PooledBatch) -> None:
        if batch.done.set_running_or_notify_cancel():
            settle(batch.done, lambda: self._model.rows(batch))
            self._num_tokens += sum(map(len, batch.prompts))
        self._num_waiting -= 1

    def _load(self) -> _Model:
        device = choose_device(self._spec.device)
        if self._settings.num_threads is not None:
            torch.set_num_threads(self._settings.num_threads)
        try:
            return self._read(device)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise SpecError(f"the model cannot be loaded: {error}") from error

    def _read(self, device: torch.device) -> _Model:
        path = Path(self._spec.model_path or "")
        if self._task is Task.EMBED:
            assert self._pooling is not None, "checked when the backend was made"
            return _Model(self._part(AutoModel, device), None, self._pooling.kind, False)
        if (path / VALUE_HEAD_FILE).is_file():
            body = self._part(AutoModel, device)
            head = _value_head(path / VALUE_HEAD_FILE).to(device)
            return _Model(body, head, PoolingKind.LAST, False)
        model = self._part(AutoModelForSequenceClassification, device)
        if model.config.num_labels != 1:
            raise SpecError(
                f"a model that scores has one label, this one has {model.config.num_labels}"
            )
        score = getattr(model, "score", None)
        if isinstance(score, nn.Linear):
            return _Model(model.base_model, score, PoolingKind.LAST, False)
        return _Model(model, None, None, True)

    def _part(self, kind: Any, device: torch.device) -> Any:
        spec = self._spec
        dtype = DTYPES.get(spec.dtype)
        if dtype is None and spec.dtype != "auto":
            raise SpecError(f"dtype {spec.dtype!r} is not one of auto, {', '.join(DTYPES)}")
        model: Any = kind.from_pretrained(
            spec.model_path,
            dtype=dtype if dtype is not None else "auto",
            trust_remote_code=spec.trust_remote_code,
            use_safetensors=True,
            attn_implementation=attention_name(self._settings, device),
        )
        return model.to(device).eval().requires_grad_(False)


def _value_head(file: Path) -> nn.Linear:
    weights = {name.removeprefix("v_head."): tensor for name, tensor in load_file(file).items()}
    weight, bias = weights.get("summary.weight"), weights.get("summary.bias")
    if weight is None or weight.shape[0] != 1:
        raise SpecError(f"{file.name} holds no v_head.summary.weight of one value")
    head = nn.Linear(weight.shape[1], 1, bias=bias is not None, dtype=weight.dtype)
    head.weight.data.copy_(weight)
    if bias is not None:
        head.bias.data.copy_(bias)
    return head.requires_grad_(False)


def _max_length(model: _Model, tokenizer: Any, spec: EngineSpec) -> int:
    """The least of what the config, the tokenizer and sentence-transformers' own file allow. The
    tokenizer is not asked where a causal model has a head: it is trained and generates within its
    config's length."""
    body = model.body
    limits: list[int] = []
    positions = getattr(body.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None:
        # RoBERTa's positions begin after the padding id.
        padding = getattr(getattr(body, "embeddings", None), "padding_idx", None)
        limits.append(positions if padding is None else positions - padding - 1)
    is_settled = model.head is not None and bool(limits)
    if tokenizer.model_max_length < 1 << 30 and not is_settled:
        limits.append(int(tokenizer.model_max_length))
    file = read_json(Path(spec.model_path or "") / "sentence_bert_config.json") or {}
    if file.get("max_seq_length"):
        limits.append(int(file["max_seq_length"]))
    if spec.max_model_len is not None:
        if limits and spec.max_model_len > min(limits):
            raise SpecError(
                f"max_model_len {spec.max_model_len} is over the model's own {min(limits)}"
            )
        limits.append(spec.max_model_len)
    if not limits:
        raise SpecError("the model's config names no context length: set max_model_len")
    return min(limits)
