"""Models that a run asks beside the one it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import torch

from workers.contract.training import TrainSpec
from workers.trainer.failures import TrainerError
from workers.trainer.lora import merge_lora
from workers.trainer.models import choose_device, compute_type, load_base


def load_frozen(spec: TrainSpec, path: Path, adapter: Path | None, param: str) -> Any:
    """The causal model at `path`, with an adapter merged into it, as it answers. `param` is named
    where it cannot be loaded. Leaves torch's generator as it was. Raises TrainerError."""
    arguments = msgspec.structs.replace(
        spec.model, model_name_or_path=str(path), train_from_scratch=False
    )
    generator = torch.get_rng_state()
    try:
        module, _ = load_base(arguments, compute_type(spec))
        if adapter is not None:
            module = merge_lora(module, adapter)
    except TrainerError as error:
        raise TrainerError(f"The model of '{param}' cannot be loaded.", param) from error
    finally:
        torch.set_rng_state(generator)
    module.to(choose_device(spec.model.device))
    return module.eval().requires_grad_(False)
