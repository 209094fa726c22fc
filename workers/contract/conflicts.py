"""Parameters that exclude or need each other, for the service and the trainer alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workers.contract.parameters import must_merge, parameters

_EXCLUSIVE = (
    ("train_on_prompt", "mask_history"),
    ("bf16", "pure_bf16"),
    ("gradient_checkpointing", "disable_gradient_checkpointing"),
    ("use_dft_loss", "use_asft_loss"),
    ("use_dft_loss", "use_eaft_loss"),
    ("use_asft_loss", "use_eaft_loss"),
    ("use_asft_loss", "pissa_init"),
    ("use_dora", "pissa_init"),
    ("pissa_convert", "additional_target"),
    ("pissa_convert", "create_new_adapter"),
)
"""Switches of which one at most is on."""
_NEEDS = {
    "asft_alpha": "use_asft_loss",
    "eaft_alpha": "use_eaft_loss",
    "pissa_iter": "pissa_init",
    "pissa_convert": "pissa_init",
}
"""Numbers, and the switch that each belongs to."""
_ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")


@dataclass(frozen=True, slots=True)
class Conflict:
    name: str
    """The parameter to change."""
    reason: str


def find_conflict(value: Callable[[str], Any]) -> Conflict | None:
    """`value` gives a parameter by its name, None where the stage has none of this name."""
    for first, second in _EXCLUSIVE:
        if value(first) and value(second):
            return Conflict(second, f"'{first}' and '{second}' exclude each other.")
    for name, needed in _NEEDS.items():
        if _is_set(value, name) and not value(needed):
            return Conflict(name, f"It needs '{needed}'.")
    if value("fp16"):
        return Conflict(
            "fp16",
            "The trainer does not scale losses, which float16 needs. Use 'bf16', which has the "
            "range of float32.",
        )
    if value("oft_rank") and _is_set(value, "oft_block_size"):
        return Conflict("oft_block_size", "'oft_rank' stands in its place.")
    if value("freeze_trainable_layers") == 0 and not value("freeze_extra_modules"):
        return Conflict("freeze_trainable_layers", "Without any layer nothing would be trained.")
    if value("merge") == "never" and (name := must_merge(value)) is not None:
        return Conflict(name, "No engine serves such an adapter: set 'merge' to 'auto'.")
    size = value("val_size") or 0
    if size > 1 and not float(size).is_integer():
        return Conflict("val_size", "It is a share below 1 or a whole number of examples.")
    if value("load_best_model_at_end") and _places(value, "save") != _places(value, "eval"):
        return Conflict(
            "load_best_model_at_end",
            "It needs checkpoints where evaluations are: set 'save_strategy' and 'save_steps' as "
            "'eval_strategy' and 'eval_steps'.",
        )
    if value("load_best_model_at_end") and value("eval_strategy") == "no":
        return Conflict("load_best_model_at_end", "It needs evaluations: 'eval_strategy' is 'no'.")
    return _adam(value) or _strategy(value, "eval") or _strategy(value, "save")


def _adam(value: Callable[[str], Any]) -> Conflict | None:
    optim = str(value("optim"))
    if optim.startswith("adamw"):
        return None
    for name in _ADAM:
        if _is_set(value, name):
            return Conflict(name, f"The optimiser '{optim}' has none; 'adamw_torch' has.")
    return None


def _is_set(value: Callable[[str], Any], name: str) -> bool:
    return value(name) not in (None, parameters()[name].default)


def _places(value: Callable[[str], Any], what: str) -> tuple[bool, int]:
    return value(f"{what}_strategy") == "no", value(f"{what}_steps") or 0


def _strategy(value: Callable[[str], Any], what: str) -> Conflict | None:
    strategy, steps = value(f"{what}_strategy"), value(f"{what}_steps")
    if strategy == "steps" and not steps:
        return Conflict(f"{what}_steps", f"'{what}_strategy' is 'steps', so it must be set.")
    if strategy in ("no", "epoch") and steps:
        return Conflict(f"{what}_steps", f"'{what}_strategy' is '{strategy}', so it must be 0.")
    return None
