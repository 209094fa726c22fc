"""Checks a PEFT LoRA directory against its base model before an engine sees it.

Engines accept far too much: an adapter with smaller shapes loads and answers nonsense, and others
fail inside the engine. Here only configurations and the headers of weights are read, so it costs
milliseconds and runs anywhere; torch is asked for the shapes of pickled weights alone.

Formats: `adapter_config.json` and `adapter_model.safetensors` as PEFT 0.21 writes them; the
safetensors header is an 8-byte little-endian length and that many bytes of JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from workers.contract.adapter_layout import CONFIG_FILE, WEIGHTS_FILE, foreign_layout, missing_file
from workers.contract.messages import FailureKind
from workers.contract.parts import AdapterRef
from workers.engine.adapter_kinds import (
    AdapterRules,
    converted_init,
    effective_rank,
    kind_problems,
)
from workers.engine.backend import RefusedError

PEFT_PREFIX = "base_model.model."
_MAX_HEADER_BYTES = 100_000_000
_FACTOR = re.compile(
    r"^(?P<module>.+)\.(?:lora_(?P<side>[AB])\.weight|lora_embedding_(?P<embedding>[AB])"
    r"|(?P<magnitude>lora_magnitude_vector)(?:\.weight)?)$"
)
_WHOLE = re.compile(r"^(?P<module>.+?)(?P<copy>\.base_layer)?(?:\.modules_to_save)?\.weight$")
_BIAS = re.compile(r"\.bias$")
_EXPERT = re.compile(r"\.experts(\.(?!router\.)|$)")
"""A router inside is no expert: every token goes through it."""
_ENDS = frozenset({"embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings"})
"""How models name their embeddings and output layers."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(slots=True)
class Layer:
    """What an adapter has for one layer, by the names of its tensors."""

    a: str | None = None
    b: str | None = None
    magnitude: str | None = None
    whole: str | None = None
    """In place of the base's weights."""
    is_copy: bool = False
    """`whole` is what PEFT saves of the base's own beside LoRA on it."""
    is_embedding: bool = False
    """Its factors are those of an embedding: A is by token."""
    rank: int = 0


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """A checked adapter: enough to build its weights."""

    config: dict[str, Any]
    layers: dict[str, Layer] = field(default_factory=dict[str, Layer])
    """By the base model's names."""

    @property
    def modules(self) -> dict[str, int]:
        """Rank of each layer that has factors."""
        return {name: layer.rank for name, layer in self.layers.items() if layer.rank}


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
    for problem in kind_problems(config, rules):
        raise invalid(adapter, problem)
    facts = AdapterFacts(config, _sort(adapter, shapes))
    for module, layer in facts.layers.items():
        _check_ends(adapter, module, layer, config, rules)
        if layer.a is not None or layer.b is not None:
            layer.rank = _check_factors(adapter, module, layer, shapes, config, rules)
        if base is not None:
            _check_base(adapter, module, layer, shapes, base, config)
    _check_saved_modules(adapter, facts)
    return facts


def made_plain(adapter: AdapterRef, model_path: str | Path) -> AdapterRef:
    """The adapter with a path to what engines read: safetensors that add to the base model as it
    is. It has been checked. Blocking: converting may take long. Raises RefusedError."""
    folder = Path(adapter.path)
    try:
        config = json.loads((folder / CONFIG_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise invalid(adapter, "its files cannot be read") from error
    if (folder / WEIGHTS_FILE).is_file() and converted_init(config) is None:
        return adapter
    from workers.engine.adapter_conversion import convert

    return convert(adapter, model_path)


def _read(adapter: AdapterRef) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    folder = Path(adapter.path)
    if (foreign := foreign_layout(folder)) is not None:
        raise invalid(adapter, foreign)
    if (missing := missing_file(folder)) is not None:
        message = f"Adapter {adapter.name!r} cannot be had on this engine's host: {missing}."
        raise RefusedError(FailureKind.ADAPTER_NOT_FOUND, message, "model")
    try:
        config = json.loads((folder / CONFIG_FILE).read_bytes())
        if (folder / WEIGHTS_FILE).is_file():
            shapes = read_shapes(folder / WEIGHTS_FILE)
        else:
            from workers.engine.adapter_conversion import pickled_shapes

            shapes = pickled_shapes(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise invalid(adapter, f"its files cannot be read ({_first_line(error)})") from error
    if not isinstance(config, dict):
        raise invalid(adapter, "adapter_config.json is not an object")
    return config, shapes


def _first_line(error: Exception) -> str:
    """Without the path that an OSError names."""
    text = error.strerror if isinstance(error, OSError) else str(error)
    return (text or type(error).__name__).splitlines()[0][:200]


def _sort(adapter: AdapterRef, shapes: Shapes) -> dict[str, Layer]:
    layers: dict[str, Layer] = {}
    for stored, shape in shapes.items():
        name = stored.removeprefix(PEFT_PREFIX)
        if _BIAS.search(name):
            if prod(shape):
                raise invalid(adapter, f"it holds a trained bias ({name}), which is not served")
            continue
        if not prod(shape):
            raise invalid(adapter, f"weight {name!r} is empty: it was saved in parts (ZeRO-3)")
        if (found := _FACTOR.match(name)) is not None:
            layer = layers.setdefault(found["module"], Layer())
            layer.is_embedding |= found["embedding"] is not None
            if found["magnitude"] is not None:
                layer.magnitude = stored
            elif (found["side"] or found["embedding"]) == "A":
                layer.a = stored
            else:
                layer.b = stored
        elif (found := _WHOLE.match(name)) is not None and _is_end(found["module"]):
            layer = layers.setdefault(found["module"], Layer())
            layer.whole, layer.is_copy = stored, found["copy"] is not None
        else:
            raise invalid(adapter, f"weight {name!r} is not a LoRA factor of a linear layer")
    if not layers:
        raise invalid(adapter, "it holds no weights")
    return layers


def _is_end(module: str) -> bool:
    return module.rpartition(".")[2] in _ENDS


def _check_ends(
    adapter: AdapterRef, module: str, layer: Layer, config: dict[str, Any], rules: AdapterRules
) -> None:
    if _EXPERT.search(module) and not rules.experts:
        raise invalid(adapter, f"{module} is an expert, which {rules.engine} engine does not serve")
    if not _is_end(module):
        return
    has_factors = layer.a is not None
    if has_factors and not rules.ends:
        raise invalid(adapter, f"{rules.engine} engine does not serve LoRA on {module}")
    if layer.whole is not None and not layer.is_copy and not rules.saved_modules:
        raise invalid(adapter, f"{rules.engine} engine does not serve trained weights of {module}")
    if config.get("ensure_weight_tying"):
        raise invalid(adapter, f"ensure_weight_tying is not served together with {module}")


def _check_factors(
    adapter: AdapterRef,
    module: str,
    layer: Layer,
    shapes: Shapes,
    config: dict[str, Any],
    rules: AdapterRules,
) -> int:
    if layer.a is None or layer.b is None:
        raise invalid(adapter, f"{module} has only one of its two factors")
    if len(shapes[layer.a]) != 2 or len(shapes[layer.b]) != 2:
        raise invalid(adapter, f"{module} is not a linear layer")
    rank, rank_out = shapes[layer.a][0], shapes[layer.b][1]
    expected = pattern_value(config.get("rank_pattern") or {}, module, config["r"])
    if rank != rank_out or rank != expected:
        raise invalid(adapter, f"{module} has rank {rank}, its configuration says {expected}")
    if bool(config.get("use_dora")) != (layer.magnitude is not None):
        raise invalid(adapter, f"{module} has its magnitudes (DoRA) or use_dora, and not both")
    served = effective_rank(config, rank)
    if served > rules.max_rank:
        told = "" if served == rank else f" (twice {rank}, as training changed its base)"
        raise invalid(
            adapter,
            f"its rank {served}{told} is over this engine's limit of {rules.max_rank}: raise "
            "max_lora_rank of the model's entry",
        )
    return rank


def _check_base(
    adapter: AdapterRef,
    module: str,
    layer: Layer,
    shapes: Shapes,
    base: Shapes,
    config: dict[str, Any],
) -> None:
    # Files of some models leave out the first part of their layers' names.
    weight = base.get(f"{module}.weight") or base.get(f"{module.partition('.')[2]}.weight")
    if weight is None:
        raise invalid(adapter, f"the base model has no layer {module}")
    if layer.whole is not None and shapes[layer.whole] != weight:
        raise invalid(
            adapter,
            f"{module} has weights of {_size(shapes[layer.whole])}, the base model's are of "
            f"{_size(weight)}: a vocabulary of another size is not served",
        )
    if layer.a is None or layer.b is None:
        return
    num_in, num_out = shapes[layer.a][1], shapes[layer.b][0]
    found = (num_in, num_out) if layer.is_embedding else (num_out, num_in)
    is_turned = bool(config.get("fan_in_fan_out")) and found[::-1] == weight
    if found != weight and not is_turned:
        raise invalid(
            adapter,
            f"{module} is made for a layer of {found[-1]} to {found[0]}, the base model's is of "
            f"{weight[-1]} to {weight[0]}",
        )
    if layer.magnitude is not None and shapes[layer.magnitude] != (num_out,):
        raise invalid(adapter, f"{module} has magnitudes of another size")


def _check_saved_modules(adapter: AdapterRef, facts: AdapterFacts) -> None:
    saved = {name.rpartition(".")[2] for name, layer in facts.layers.items() if layer.whole}
    for name in facts.config.get("modules_to_save") or []:
        if str(name).rpartition(".")[2] not in saved:
            what = "are not in its files" if _is_end(str(name)) else "are not served"
            raise invalid(adapter, f"the weights of {name!r} (modules_to_save) {what}")


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def pattern_value(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """As PEFT's `get_pattern_key`: a key matches a suffix of the name that starts at a dot."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def invalid(adapter: AdapterRef, what: str) -> RefusedError:
    message = f"Adapter {adapter.name!r} cannot be served: {what}."
    return RefusedError(FailureKind.ADAPTER_INVALID, message, "model")
