"""An adapter's files into peft's model, all of them.

peft gives an adapter's weights the names that transformers gives those of the base's files. Where
the rule also fits a name that is the model's own (`shared_expert` in Laguna's `shared_experts`),
peft leaves the weight out and only warns. A weight whose name is one of the model's goes there.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.utils import load_peft_weights
from torch import Tensor

_MISSING = "Found missing adapter keys"
_NAME = "default"


class IncompleteAdapterError(ValueError):
    """Weights that the adapter's configuration asks for are not in its files; in words."""


def load_adapter(base: Any, path: str | Path, **options: Any) -> Any:
    """`options` as of `PeftModel.from_pretrained`. Raises IncompleteAdapterError."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model: Any = PeftModel.from_pretrained(base, str(path), **options)
    missing = "".join(str(warning.message).partition(_MISSING)[2] for warning in told)
    if not missing:
        return model
    placed = _by_own_names(model, load_peft_weights(str(path), device="cpu"))
    model.load_state_dict(placed, strict=False)
    lost = sorted(set(re.findall(r"'([^']+)'", missing)) - placed.keys())
    if lost:
        layer = re.split(r"\.lora_|\.modules_to_save", lost[0])[0]
        layer = layer.removeprefix("base_model.model.")
        raise IncompleteAdapterError(
            f"the adapter's files lack {len(lost)} weights, as those of {layer}"
        )
    return model


def _by_own_names(model: Any, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The stored weights whose names are the model's, by these."""
    own: dict[str, Tensor] = model.state_dict()
    placed: dict[str, Tensor] = {}
    for name, weight in stored.items():
        inside = re.sub(r"(\.lora_\w+)", rf"\1.{_NAME}", name, count=1)
        for full in (inside, f"{inside}.weight"):
            if full in own and own[full].shape == weight.shape:
                placed[full] = weight
    return placed
