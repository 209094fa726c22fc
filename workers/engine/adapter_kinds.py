"""Which kinds of PEFT adapters each engine serves, as their configurations declare them.

A setting that is not known here is refused where it is set: PEFT's newer ones change what an
adapter computes. So is an initialisation that is not known to leave the base model as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from workers.engine.spec import BackendName

PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica"})
"""Values of `init_lora_weights`, beside true and false, that leave the base model as it is."""
CONVERTED_INITS = frozenset({"pissa", "olora"})
"""Those that take the first factors out of the base, and whose factors can be computed again."""

_NEUTRAL = frozenset(
    [
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_bias",
        "lora_dropout",
        "lora_ga_config",
        "megatron_config",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "target_parameters",
        "task_type",
        "use_dora",
        "use_rslora",
        "velora_config",
    ]
)
"""Settings that change nothing of an answer, or that are looked at here."""
_NAMES = {
    "layer_replication": "layer_replication",
    "alora_invocation_tokens": "activated LoRA (alora_invocation_tokens)",
    "use_qalora": "QALoRA (use_qalora)",
    "use_bdlora": "block-diagonal LoRA (use_bdlora)",
    "arrow_config": "routed adapters (arrow_config)",
    "kasa_config": "KaSA (kasa_config)",
    "monteclora_config": "MonteCLoRA (monteclora_config)",
    "trainable_token_indices": "trained tokens (trainable_token_indices)",
}


@dataclass(frozen=True, slots=True)
class AdapterRules:
    """What one engine can serve."""

    max_rank: int
    engine: str = "this"
    rslora: bool = True
    """Scaling by alpha over the root of the rank."""
    patterns: bool = True
    """Ranks and alphas of their own for some modules."""
    dora: bool = False
    ends: bool = False
    """LoRA on the embeddings and on the output layer."""
    saved_modules: bool = False
    """Whole weights of these two in place of the base's."""
    parameters: bool = True
    """Linear layers that are named in `target_parameters`."""
    experts: bool = False
    """LoRA on single experts, as models held them before transformers 5."""


def rules_of(backend: BackendName, max_rank: int) -> AdapterRules:
    match backend:
        case BackendName.SGLANG:
            return AdapterRules(
                max_rank, "the SGLang", rslora=False, patterns=False, parameters=False
            )
        case BackendName.VLLM:
            return AdapterRules(max_rank, "the vLLM", ends=True, experts=True)
        case BackendName.HF:
            return AdapterRules(max_rank, "the hf", dora=True, ends=True, saved_modules=True)
        case BackendName.ATTACHED | BackendName.SCRIPTED:
            return AdapterRules(max_rank)


def converted_init(config: dict[str, Any]) -> str | None:
    """The initialisation that a load has to take back; None where there is nothing to."""
    init = config.get("init_lora_weights")
    name = init.lower() if isinstance(init, str) else ""
    return name if name.split("_niter_")[0] in CONVERTED_INITS else None


def effective_rank(config: dict[str, Any], rank: int) -> int:
    """Of the factors as they are served: those that training began with stand beside them."""
    return rank if converted_init(config) is None else 2 * rank


def kind_problems(config: dict[str, Any], rules: AdapterRules) -> Iterator[str]:
    """Why an engine with these rules does not serve such an adapter, in words for its operator."""
    peft_type = config.get("peft_type")
    if peft_type != "LORA":
        if "lora_parameters" in config or "fine_tune_type" in config:
            yield "it is in MLX's layout: convert it to PEFT's"
        elif peft_type is None:
            yield "its adapter_config.json names no peft_type"
        else:
            yield f"its peft_type is {peft_type!r}, and LORA alone is served"
        return
    yield from _init_problems(config.get("init_lora_weights", True))
    if config.get("use_dora") and converted_init(config) is not None:
        yield "DoRA (use_dora) on a base that its initialisation changed is not served"
    for name, value in config.items():
        if value and name not in _NEUTRAL:
            yield f"{_NAMES.get(name, f'the setting {name}')} is not served"
    yield from _engine_problems(config, rules)
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not _is_number(rank, int) or not _is_number(alpha, (int, float)):
        yield "its r and lora_alpha are not numbers above 0"


def _init_problems(init: object) -> Iterator[str]:
    if init is None or isinstance(init, bool):
        return
    name = init.lower() if isinstance(init, str) else ""
    if name in PLAIN_INITS or name.split("_niter_")[0] in CONVERTED_INITS:
        return
    yield (
        f"init_lora_weights={init!r} is not known to leave the base model's weights as they are: "
        "save the adapter with PEFT's path_initial_model_for_weight_conversion"
    )


def _engine_problems(config: dict[str, Any], rules: AdapterRules) -> Iterator[str]:
    engine = f"{rules.engine} engine"
    if config.get("use_dora") and not rules.dora:
        yield f"{engine} does not serve DoRA (use_dora)"
    if config.get("modules_to_save") and not rules.saved_modules:
        yield f"{engine} does not serve modules_to_save"
    if config.get("use_rslora") and not rules.rslora:
        yield f"{engine} does not serve rsLoRA (use_rslora)"
    if (config.get("rank_pattern") or config.get("alpha_pattern")) and not rules.patterns:
        yield f"{engine} does not serve rank_pattern or alpha_pattern"
    targets = config.get("target_parameters") or []
    if any(not str(target).endswith(".weight") for target in targets):
        yield "it adapts fused experts (target_parameters), which are not served as LoRA"
    elif targets and not rules.parameters:
        yield f"{engine} does not serve target_parameters"


def _is_number(value: object, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool) and value > 0  # pyright: ignore
