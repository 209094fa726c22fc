"""Which layers of a model LoRA trains, in names that every reader of the adapter resolves alike.

Linear layers only: experts that are one tensor for all cannot be served as LoRA. A layer is named
by the last part of its name where all that share it are trained, which every engine understands,
and in full where not. peft takes some names for those of experts in older models (`gate_proj` of
Qwen, DeepSeek, GLM, ...) and would adapt the fused experts in their place: such a layer's weight is
named as a parameter, which peft leaves as it is, and its files are the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

from workers.models.layers import is_linear
from workers.trainer.failures import InvalidHyperparameters

_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
ALL = "all"
_REFUSED_BY_PEFT = dict.fromkeys(
    ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"), "out_proj"
)
"""A layer of these models whose weights their fused kernels read past any adapter
(`peft.tuners.tuners_utils._check_lora_target_modules_mamba`)."""


@dataclass(frozen=True, slots=True)
class Targets:
    modules: list[str]
    parameters: list[str]
    notes: tuple[str, ...] = ()
    """What is not trained, for the run's user."""


def choose_targets(
    base: Any, lora_target: str, *, has_dropout: bool, param: str = "lora_target"
) -> Targets:
    """Raises InvalidHyperparameters."""
    linear = {name for name, module in base.named_modules() if is_linear(module)}
    chosen = _all(base, linear) if lora_target == ALL else _named(lora_target, linear, param)
    taken = {name for name in chosen if _is_taken_for_experts(base, _last(name))}
    notes = list(_untrained_experts(base))
    if taken and has_dropout:
        if lora_target != ALL:
            raise InvalidHyperparameters(
                f"'lora_dropout' must be 0 where 'lora_target' names {_listed(taken)} of this "
                "model: peft trains these without dropout only.",
                "lora_dropout",
            )
        notes.append(
            f"{_listed(taken)} outside of the experts are not trained, as peft trains these "
            "without dropout only: set lora_dropout to 0 to train them."
        )
        chosen -= taken
        taken = set[str]()
    if not chosen:
        raise InvalidHyperparameters("This model has no linear layer to train.", param)
    return Targets(
        _shortened(base, chosen - taken),
        sorted(f"{name}.weight" for name in taken),
        tuple(notes),
    )


def _all(base: Any, linear: set[str]) -> set[str]:
    """The output layer is left as it is."""
    output_layer = base.get_output_embeddings()
    modules = dict(base.named_modules())
    refused = _REFUSED_BY_PEFT.get(base.config.model_type)
    return {name for name in linear if modules[name] is not output_layer and _last(name) != refused}


def names_in(listed: str) -> list[str]:
    """Of a text with commas."""
    return [name for part in listed.split(",") if (name := part.strip())]


def _named(lora_target: str, linear: set[str], param: str) -> set[str]:
    names = names_in(lora_target)
    found = {name: {full for full in linear if _is_of(full, name)} for name in names}
    missing = [name for name in names if not found[name]]
    if missing or not names:
        listed = ", ".join(missing) or "nothing"
        raise InvalidHyperparameters(
            f"'{param}' names {listed}, which is no linear layer of this model.", param
        )
    return set[str]().union(*found.values())


def _shortened(base: Any, chosen: set[str]) -> list[str]:
    """A last part that other modules or parameters share would adapt those too."""
    names = [name for name, _ in base.named_modules()]
    others = {_last(name) for name in names if name not in chosen}
    return sorted({name if _last(name) in others else _last(name) for name in chosen})


def _is_taken_for_experts(base: Any, last: str) -> bool:
    """Asks peft itself, which raises where a name would adapt half of a fused tensor."""
    config = LoraConfig(target_modules=[last], target_parameters=[])
    try:
        convert_peft_config_for_transformers(config, base, None)
    except ValueError:
        return True
    return bool(config.target_parameters)


def _untrained_experts(base: Any) -> Iterable[str]:
    """Tensors of three dimensions: one weight for each expert, side by side."""
    names = {
        ".".join(name.split(".")[-2:])
        for name, module in base.named_modules()
        if not isinstance(module, _CONVOLUTIONS)
        and any(parameter.ndim == 3 for parameter in module.parameters(recurse=False))
    }
    if names:
        yield (
            f"The weights of the experts ({', '.join(sorted(names))}) are not trained: LoRA adapts "
            "linear layers, and the experts of a layer are one tensor."
        )


def _listed(names: set[str]) -> str:
    return ", ".join(sorted({_last(name) for name in names}))


def _is_of(full: str, name: str) -> bool:
    return full == name or full.endswith(f".{name}")


def _last(name: str) -> str:
    return name.rpartition(".")[2]
