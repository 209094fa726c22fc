"""Checks a PEFT LoRA directory against its base model before an engine sees it.

Engines accept far too much: an adapter with smaller shapes loads and answers nonsense, DoRA or
`modules_to_save` fail inside the engine or are left out. Here only configurations and safetensors
headers are read (JSON both), so it costs milliseconds and runs anywhere: no torch.

Formats: `adapter_config.json` and `adapter_model.safetensors` as PEFT 0.21 writes them; the
safetensors header is an 8-byte little-endian length and that many bytes of JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.contract.messages import FailureKind
from workers.contract.parts import AdapterRef
from workers.engine.backend import RefusedError

_MAX_HEADER_BYTES = 100_000_000
_PEFT_PREFIX = "base_model.model."
_FACTOR = re.compile(r"^(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")
_CHANGES_BASE_WEIGHTS = ("pissa", "olora", "corda", "loftq")
"""`init_lora_weights` that subtract the adapter from the base model it was trained on."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class AdapterRules:
    """What one engine can serve."""

    max_rank: int
    rslora: bool = True
    """Scaling by alpha over the root of the rank."""
    patterns: bool = True
    """Ranks and alphas of their own for some modules."""


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """A checked adapter: enough to build its weights."""

    config: dict[str, Any]
    modules: dict[str, int]
    """Rank of each adapted module, by the base model's name of it."""


def base_shapes(model_path: str | Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's weights by name, from its safetensors headers; empty without any."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(Path(model_path).glob("*.safetensors")):
        shapes |= read_shapes(file)
    return shapes


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Raises OSError or ValueError."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 2 <= size <= _MAX_HEADER_BYTES:
            raise ValueError("not a safetensors file")
        raw = stream.read(size)
        data_bytes = file.stat().st_size - 8 - size
    header = json.loads(raw)
    if not isinstance(header, dict):
        raise ValueError("not a safetensors file")
    header.pop("__metadata__", None)
    if max((entry["data_offsets"][1] for entry in header.values()), default=0) != data_bytes:
        raise ValueError("the file is cut short")
    return {name: tuple(entry["shape"]) for name, entry in header.items()}


def check_adapter(adapter: AdapterRef, base: Shapes | None, rules: AdapterRules) -> AdapterFacts:
    """Raises RefusedError. `base` as `base_shapes` gives it; None where the base model's weights
    are not at hand."""
    config, shapes = _read(adapter)
    _check_kind(adapter, config, rules)
    factors = _factors(adapter, shapes)
    modules: dict[str, int] = {}
    for module, sides in factors.items():
        modules[module] = _check_module(adapter, module, sides, config, base, rules)
    return AdapterFacts(config, modules)


def _read(adapter: AdapterRef) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    folder = Path(adapter.path)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise RefusedError(
                FailureKind.ADAPTER_NOT_FOUND,
                f"Adapter {adapter.name!r} has no {name} on this engine's host.",
                "model",
            )
    try:
        config = json.loads((folder / "adapter_config.json").read_bytes())
        shapes = read_shapes(folder / "adapter_model.safetensors")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _invalid(adapter, "its files cannot be read") from error
    if not isinstance(config, dict):
        raise _invalid(adapter, "adapter_config.json is not an object")
    return config, shapes


def _check_kind(adapter: AdapterRef, config: dict[str, Any], rules: AdapterRules) -> None:
    init = config.get("init_lora_weights")
    unserved = [
        (config.get("peft_type") != "LORA", "its peft_type is not LORA"),
        (config.get("use_dora"), "DoRA cannot be served as LoRA"),
        (config.get("modules_to_save"), "modules_to_save cannot be served as LoRA"),
        (config.get("bias", "none") != "none", "trained biases cannot be served as LoRA"),
        (config.get("lora_bias"), "trained biases cannot be served as LoRA"),
        (config.get("layer_replication"), "layer_replication cannot be served"),
        (config.get("alora_invocation_tokens"), "activated LoRA cannot be served"),
        (config.get("use_qalora"), "QALoRA cannot be served"),
        (config.get("target_parameters"), "target_parameters cannot be served"),
        (config.get("trainable_token_indices"), "trained tokens cannot be served as LoRA"),
        (
            isinstance(init, str) and init.lower().startswith(_CHANGES_BASE_WEIGHTS),
            f"init_lora_weights={init!r} changes the base model's weights",
        ),
        (config.get("use_rslora") and not rules.rslora, "this engine does not serve rsLoRA"),
        (
            (config.get("rank_pattern") or config.get("alpha_pattern")) and not rules.patterns,
            "this engine does not serve rank_pattern or alpha_pattern",
        ),
    ]
    for found, what in unserved:
        if found:
            raise _invalid(adapter, what)
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise _invalid(adapter, "its r and lora_alpha are not numbers")


def _factors(adapter: AdapterRef, shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
    factors: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        match = _FACTOR.match(name.removeprefix(_PEFT_PREFIX))
        if match is None or len(shape) != 2:
            raise _invalid(adapter, f"weight {name!r} is not a LoRA factor of a linear layer")
        factors.setdefault(match["module"], {})[match["side"]] = shape
    if not factors:
        raise _invalid(adapter, "it holds no weights")
    return factors


def _check_module(
    adapter: AdapterRef,
    module: str,
    sides: dict[str, tuple[int, ...]],
    config: dict[str, Any],
    base: Shapes | None,
    rules: AdapterRules,
) -> int:
    if sides.keys() != {"A", "B"}:
        raise _invalid(adapter, f"{module} has only one of its two factors")
    (rank, num_in), (num_out, rank_out) = sides["A"], sides["B"]
    expected = pattern_value(config.get("rank_pattern") or {}, module, config["r"])
    if rank != rank_out or rank != expected:
        raise _invalid(adapter, f"{module} has rank {rank}, its configuration says {expected}")
    if rank > rules.max_rank:
        raise _invalid(adapter, f"its rank {rank} is over this engine's limit of {rules.max_rank}")
    if base is None:
        return rank
    weight = base.get(f"{module}.weight")
    if weight is None:
        raise _invalid(adapter, f"the base model has no layer {module}")
    if weight != (num_out, num_in):
        raise _invalid(
            adapter,
            f"{module} is made for a layer of {num_in} to {num_out}, the base model's is of "
            f"{weight[-1]} to {weight[0]}",
        )
    return rank


def pattern_value(patterns: Mapping[str, int], module: str, default: int) -> int:
    """As PEFT's `get_pattern_key`: a key matches a suffix of the name that starts at a dot."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _invalid(adapter: AdapterRef, what: str) -> RefusedError:
    message = f"Adapter {adapter.name!r} cannot be served: {what}."
    return RefusedError(FailureKind.ADAPTER_INVALID, message, "model")
