"""Whether what a job makes could be served: by what the base's entry says, and by what its engine
says of itself once it runs. What is refused here would otherwise fail after the training."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from server.config import EngineKind, ModelEntry
from server.engines.start_failures import failing_engines
from server.errors import InvalidRequest, Unavailable, unsupported_value
from server.fine_tuning.base_shape import BaseShape
from server.fine_tuning.hyperparameters import Hyperparameters
from workers.contract.hello import Capability, Hello
from workers.contract.parameters import FinetuningType

_RETRY_AFTER_FAILURE_S = 30.0

SERVED_BY = {
    "use_dora": frozenset({EngineKind.HF}),
    "use_rslora": frozenset(EngineKind) - {EngineKind.SGLANG},
}
"""Kinds of adapters that not every engine serves."""
_SETTINGS_OF_GENERATING = ("task", "rope_scaling", "quantization_bit")
"""Settings of the hf engine that a model which scores does not take from its base's entry."""

FindHello = Callable[[str], Hello | None]
"""What an engine of the model says of itself; None while there is none."""


def check_entry(entry: ModelEntry, kind: FinetuningType, where: str) -> None:
    """`where` are the parameters in the request. Raises InvalidRequest."""
    if entry.merges_adapters:
        raise _unavailable(
            f"The model '{entry.id}' is served with adapters merged into it, and training starts "
            "from the weights in its directory."
        )
    if kind is FinetuningType.LORA:
        _check_takes_adapters(entry, where)
    elif entry.engine is EngineKind.ATTACHED:
        raise unsupported_value(
            f"{where}.finetuning_type",
            f"'{entry.id}' is served by an attached engine, which takes only adapters.",
        )
    elif not entry.replicas:
        raise unsupported_value(
            f"{where}.finetuning_type",
            f"'{entry.id}' is served on other hosts only, which take only adapters.",
        )


def check_scores(entry: ModelEntry) -> None:
    """Whether engines of the entry's kind would serve a reward model. Raises InvalidRequest."""
    if entry.engine is not EngineKind.HF:
        raise unsupported_value(
            "method.type",
            f"Reward models are served by the hf engine alone, and '{entry.id}' is served by "
            f"{entry.engine}.",
        )
    for name in _SETTINGS_OF_GENERATING:
        if entry.engine_settings.get(name) is not None:
            raise unsupported_value(
                "method.type",
                f"'{entry.id}' is served with {name}, which engines of reward models do not take.",
            )


def _check_takes_adapters(entry: ModelEntry, where: str) -> None:
    if entry.engine is EngineKind.ATTACHED and not entry.allow_adapters:
        raise _unavailable(
            f"The model '{entry.id}' is served by an attached engine that takes no adapters."
        )
    if entry.max_loras == 0:
        raise unsupported_value(
            f"{where}.finetuning_type",
            f"'{entry.id}' is served without LoRA; use 'full', or set 'merge' to 'always'.",
        )


def check_generates(model_id: str, shape: BaseShape, where: str) -> None:
    """Whether the base's engines would serve an adapter. Raises InvalidRequest."""
    if shape.is_reward_model:
        raise unsupported_value(
            f"{where}.finetuning_type",
            f"'{model_id}' is a reward model, which is served without adapters; use 'full', or "
            "method.type 'reward_model'.",
        )


def check_experts(entry: ModelEntry, shape: BaseShape, lora_target: str, where: str) -> None:
    """By default a job adapts layers beside the experts that PEFT names as parameters, which SGLang
    does not serve. Raises InvalidRequest."""
    is_sglang = entry.engine is EngineKind.SGLANG or entry.flavour == EngineKind.SGLANG.value
    if is_sglang and shape.num_experts and lora_target.strip() == "all":
        raise unsupported_value(
            f"{where}.lora_target",
            f"SGLang serves no adapters on all layers of '{entry.id}', a mixture of experts: name "
            "those of its attention, such as 'q_proj,k_proj,v_proj,o_proj'.",
        )


def merged_where_needed(entry: ModelEntry, wanted: Hyperparameters) -> Hyperparameters:
    """With `merge` as it is done. Raises InvalidRequest for an adapter that the entry's engines do
    not serve and that must not, or cannot, be merged."""
    if wanted.result is not FinetuningType.LORA:
        return wanted
    for name, engines in SERVED_BY.items():
        if not wanted.of(name) or entry.engine in engines:
            continue
        if wanted.of("merge") == "never" or not entry.replicas:
            raise unsupported_value(
                f"{wanted.where()}.{name}",
                f"The {entry.engine} engine of '{entry.id}' does not serve such adapters.",
            )
        return wanted.model_copy(update={"merge": "always"})
    return wanted


def check_rank(entry: ModelEntry, rank: int, hello: Hello | None, where: str) -> None:
    """The entry's own limit, or the engine's where that is lower. Raises InvalidRequest."""
    limit = entry.max_lora_rank
    if hello is not None and hello.max_lora_rank:
        limit = min(limit, hello.max_lora_rank)
    if rank > limit:
        raise unsupported_value(
            f"{where}.lora_rank", f"'{entry.id}' is served with adapters of rank {limit} at most."
        )


def check_engine(entry: ModelEntry, hello: Hello, kind: FinetuningType, where: str) -> None:
    """Raises InvalidRequest."""
    if kind is FinetuningType.LORA and no_adapters(hello):
        other = "" if entry.engine is EngineKind.ATTACHED else "; use 'full'"
        raise unsupported_value(
            f"{where}.finetuning_type",
            f"The engine of '{entry.id}' says that it serves no adapters{other}.",
        )


def no_adapters(hello: Hello) -> bool:
    return Capability.LORA not in hello.capabilities or hello.max_loras == 0


async def check_starts(run_dir: Path, entry: ModelEntry) -> None:
    """For a base that no engine serves at present. Raises Unavailable when none of them starts."""
    if await asyncio.to_thread(never_starts, run_dir, entry):
        raise Unavailable(
            f"The engine of the model '{entry.id}' does not start, so nothing that is trained on "
            "it could be served. The operator's terminal says why.",
            retry_after_s=_RETRY_AFTER_FAILURE_S,
        )


def never_starts(run_dir: Path, entry: ModelEntry) -> bool:
    """Whether each of the base's engines failed when it was last started."""
    return len(failing_engines(run_dir, entry.id)) >= entry.num_engines


def _unavailable(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="model", code="model_not_available")
