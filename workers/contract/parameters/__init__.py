"""Every parameter of a training run, declared once: its type, range, default and meaning, who sets
it, and the stages and kinds of fine-tuning it belongs to.

Names, defaults and meanings are LLaMA-Factory's and Hugging Face's, grouped as there. What is
declared here is read by the service for its wire schema and `openapi.yaml`, for what it refuses as
belonging elsewhere and for `docs/parameters.md`; and by the trainer, whose spec does not decode
where a value is out of its range. A new parameter is a declaration, and the line that acts on it.
"""

from __future__ import annotations

from workers.contract.parameters.data import DataArguments
from workers.contract.parameters.declaration import (
    MAX_COUNT,
    Arguments,
    FinetuningType,
    Place,
    Stage,
)
from workers.contract.parameters.finetuning import LOSS_OF, FinetuningArguments, must_merge
from workers.contract.parameters.model import ModelArguments
from workers.contract.parameters.ppo import PPOArguments
from workers.contract.parameters.reading import GROUPS, Parameter, parameters, settable
from workers.contract.parameters.training import TrainingArguments

__all__ = [
    "GROUPS",
    "LOSS_OF",
    "MAX_COUNT",
    "Arguments",
    "DataArguments",
    "FinetuningArguments",
    "FinetuningType",
    "ModelArguments",
    "PPOArguments",
    "Parameter",
    "Place",
    "Stage",
    "TrainingArguments",
    "must_merge",
    "parameters",
    "settable",
]
