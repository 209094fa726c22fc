"""The linear layer that makes one number of a hidden state: a reward, or a value."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from workers.contract.model_files import VALUE_HEAD_FILE
from workers.trainer.failures import TrainerError
from workers.trainer.models import HEAD, TrainedModel


def new_head(model: TrainedModel) -> torch.nn.Linear:
    """With the seed's weights."""
    width: int = model.causal_lm.config.get_text_config().hidden_size
    return torch.nn.Linear(width, 1).float().to(model.device)


def read_head(head: torch.nn.Linear, folder: Path, param: str) -> None:
    """The weights in `folder`, in the names of trl and LLaMA-Factory. Raises TrainerError."""
    prefix = f"{HEAD}."
    try:
        weights = load_file(folder / VALUE_HEAD_FILE)
        named = {name.removeprefix(prefix): each for name, each in weights.items()}
        head.load_state_dict(named)
    except (OSError, RuntimeError) as error:
        raise TrainerError(f"The value head of '{param}' cannot be loaded.", param) from error
