"""The model to train: base weights, an adapter where one is trained, and where they run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.neftune import neftune_post_forward_hook
from transformers.utils.logging import disable_progress_bar

from workers.contract.parameters import FinetuningType, ModelArguments, TrainingArguments
from workers.contract.training import TrainSpec
from workers.trainer.failures import InvalidHyperparameters, TrainerError
from workers.trainer.freezing import freeze
from workers.trainer.lora import add_lora, add_oft, factors_of, kept_shape, load_lora, merge_lora

HEAD = "v_head.summary"
"""Name of a head's weights, as trl and LLaMA-Factory have it."""
_log = logging.getLogger(__name__)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """`module` is what is called; a LoRA run's is a peft model."""

    module: torch.nn.Module
    base_path: Path
    device: torch.device
    compute_dtype: torch.dtype
    export_dtype: torch.dtype
    """The base's own: a full model is written as it was read."""
    is_adapter: bool
    merges: bool
    """Whether an adapter is written as a whole model, merged into its base."""
    is_pure: bool
    """Whether trained weights are in `compute_dtype` too."""
    trust_remote_code: bool
    first_factors: Mapping[str, torch.Tensor] | None = None
    """A LoRA run's at its start, where they are taken off what is written (PiSSA)."""
    head: torch.nn.Linear | None = None
    """What a stage makes of hidden states beside the module: trained with it, and all of it."""
    notes: tuple[str, ...] = ()
    """What the run's user should know of it."""

    @property
    def causal_lm(self) -> Any:
        """The transformers model, without an adapter's wrapping."""
        module: Any = self.module
        return module.get_base_model() if self.is_adapter else module

    @property
    def context_len(self) -> int | None:
        return getattr(self.causal_lm.config.get_text_config(), "max_position_embeddings", None)

    def trainable(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        head = [] if self.head is None else self.head.named_parameters(HEAD)
        return (
            (name, parameter)
            for name, parameter in chain(self.module.named_parameters(), head)
            if parameter.requires_grad
        )

    def autocast(self) -> AbstractContextManager[Any]:
        enabled = self.compute_dtype != torch.float32 and not self.is_pure
        return torch.autocast(self.device.type, dtype=self.compute_dtype, enabled=enabled)


def load_model(spec: TrainSpec) -> TrainedModel:
    """Seeds torch first, so that fresh weights are the seed's. Raises TrainerError."""
    disable_progress_bar()
    device = choose_device(spec.model.device)
    compute_dtype = compute_type(spec)
    kind = spec.finetuning.finetuning_type
    is_adapter = kind in (FinetuningType.LORA, FinetuningType.OFT)
    base_path = Path(spec.model.model_name_or_path)
    torch.manual_seed(spec.training.seed)
    # Weights that are trained stay in float32: bfloat16 swallows small updates.
    base, export_dtype = load_base(spec.model, compute_dtype if is_adapter else torch.float32)
    if _keeps_no_activations(spec.training):
        _checkpoint_activations(base)
    module, notes = _trained_part(base, spec)
    first_factors = None
    if spec.finetuning.pissa_convert:
        first_factors = factors_of(module)
    if spec.finetuning.pure_bf16:
        _hold_in(compute_dtype, module)
    if spec.training.neftune_noise_alpha is not None:
        _add_noise(base.get_input_embeddings(), spec.training.neftune_noise_alpha)
    module.to(device)
    module.train()
    return TrainedModel(
        module=module,
        base_path=base_path,
        device=device,
        compute_dtype=compute_dtype,
        export_dtype=export_dtype,
        is_adapter=is_adapter,
        merges=spec.finetuning.merges,
        first_factors=first_factors,
        is_pure=spec.finetuning.pure_bf16,
        trust_remote_code=spec.model.trust_remote_code,
        notes=notes,
    )


def _trained_part(base: Any, spec: TrainSpec) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """The module that is called, its trained weights alone open to gradients, and what to tell of
    it."""
    arguments, adapter = spec.finetuning, spec.model.adapter_name_or_path
    kind = arguments.finetuning_type
    goes_on = kind is FinetuningType.LORA and not arguments.create_new_adapter
    if adapter is not None and goes_on:
        told = kept_shape(Path(adapter), arguments)
        module = load_lora(base, Path(adapter), arguments)
        return module, () if told is None else (told,)
    module = base if adapter is None else merge_lora(base, Path(adapter))
    match kind:
        case FinetuningType.LORA:
            return add_lora(module, arguments)
        case FinetuningType.OFT:
            return add_oft(module, arguments)
        case FinetuningType.FREEZE:
            freeze(module, arguments)
        case FinetuningType.FULL:
            pass
    return module, ()


def compute_type(spec: TrainSpec) -> torch.dtype:
    """The job's, else the operator's."""
    if spec.finetuning.pure_bf16 or spec.training.bf16:
        return torch.bfloat16
    if spec.training.bf16 is False:
        return torch.float32
    return _DTYPES[spec.model.compute_dtype]


def _keeps_no_activations(arguments: TrainingArguments) -> bool:
    return arguments.gradient_checkpointing or arguments.disable_gradient_checkpointing is False


def _checkpoint_activations(base: Any) -> None:
    if not base.supports_gradient_checkpointing:
        raise InvalidHyperparameters(
            "This model cannot compute its activations again.", "gradient_checkpointing"
        )
    base.activation_checkpointing_enable({"use_reentrant": False})


def _hold_in(dtype: torch.dtype, module: torch.nn.Module) -> None:
    """Parameters only: rotary embeddings and other buffers keep their precision."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)


def _add_noise(embeddings: Any, alpha: float) -> None:
    embeddings.neftune_noise_alpha = alpha
    embeddings.register_forward_hook(neftune_post_forward_hook)


def load_base(arguments: ModelArguments, dtype: torch.dtype) -> tuple[Any, torch.dtype]:
    path = Path(arguments.model_name_or_path)
    try:
        config = AutoConfig.from_pretrained(
            path, trust_remote_code=arguments.trust_remote_code, local_files_only=True
        )
        export_dtype = _stored_dtype(path, config)
        if arguments.train_from_scratch:
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, trust_remote_code=arguments.trust_remote_code
            )
        else:
            model = AutoModelForCausalLM.from_pretrained(
                path,
                config=config,
                dtype=dtype,
                trust_remote_code=arguments.trust_remote_code,
                local_files_only=True,
            )
    except (OSError, ValueError, KeyError) as error:
        _log.error("cannot load the model: %s", error)
        raise TrainerError("The base model cannot be loaded.", "model") from error
    return model, export_dtype


def _stored_dtype(path: Path, config: Any) -> torch.dtype:
    declared = getattr(config, "dtype", None)
    if isinstance(declared, torch.dtype):
        return declared
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                return tensors.get_tensor(name).dtype
    return torch.float32


def choose_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidHyperparameters(f"'{name}' is not a device.", "device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidHyperparameters("This machine has no CUDA device.", "device")
    if device.type not in ("cpu", "cuda"):
        raise InvalidHyperparameters(f"Training on '{device.type}' is not supported.", "device")
    return device
