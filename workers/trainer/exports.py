"""Servable directories: a plain peft adapter, or a whole model in its base's dtype."""

from __future__ import annotations

import copy
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save_file

from workers.trainer.models import TrainedModel
from workers.trainer.placing import remove_partials
from workers.trainer.room import Room

Export = Callable[[Path], None]
"""Writes what can be served into an empty folder."""
_COPIED_SUFFIXES = {".json", ".jinja", ".txt", ".model", ".tiktoken"}
_WRITTEN_FILES = {"config.json"}


class Exports:
    """`checkpoints/step-N/` and `model/` of a run's directory."""

    def __init__(self, output_dir: Path, export: Export, num_kept: int, room: Room) -> None:
        self._output_dir = output_dir
        self._checkpoints = output_dir / "checkpoints"
        self._export = export
        self._num_kept = num_kept
        self._room = room
        room.insist(output_dir, lambda: self._checkpoints.mkdir(parents=True, exist_ok=True))
        remove_partials(self._checkpoints)
        remove_partials(output_dir)

    def checkpoint(self, step: int, kept: int | None = None) -> Path:
        """Nothing to do for one that an earlier process placed: it holds the same weights. That of
        step `kept` is not dropped for newer ones."""
        target = self._checkpoints / f"step-{step}"
        if not target.exists():
            self._room.place(target, self._write)
        self._drop_oldest(kept)
        return target

    def final(self, step: int) -> Path:
        """`model/`, from the checkpoint of `step` where there is one: the files are shared."""
        target = self._output_dir / "model"
        checkpoint = self._checkpoints / f"step-{step}"
        if not target.exists():
            if checkpoint.exists():
                write = partial(shutil.copytree, checkpoint, copy_function=_link_or_copy)
            else:
                write = self._write
            self._room.place(target, write)
        return target

    def _write(self, folder: Path) -> None:
        folder.mkdir()
        self._export(folder)

    def _drop_oldest(self, kept: int | None) -> None:
        steps = sorted(self._checkpoints.glob("step-*"), key=_step_of)
        for surplus in steps[: -self._num_kept]:
            if _step_of(surplus) != kept:
                shutil.rmtree(surplus)


def write_model(model: TrainedModel, folder: Path) -> None:
    """An adapter's directory, or a whole model's."""
    if model.is_adapter and model.merges:
        model = merged(model)
    if model.is_adapter:
        _write_adapter(model, folder)
    else:
        _write_model(model, folder)


def merged(model: TrainedModel) -> TrainedModel:
    """A copy with the adapter's weights added: merging in place and back would change the base's
    weights a little."""
    module: Any = copy_in_main_memory(model.module)
    return replace(model, module=module.merge_and_unload(), is_adapter=False)


def copy_in_main_memory(module: Any) -> Any:
    """Beside the optimiser's state, a device may have no room for the model once more."""
    memo: dict[int, torch.Tensor] = {}
    for each in module.parameters():
        copied = each.detach().to("cpu", copy=True)
        memo[id(each)] = torch.nn.Parameter(copied, each.requires_grad)
    memo |= {id(each): each.detach().to("cpu", copy=True) for each in module.buffers()}
    return copy.deepcopy(module, memo)


def _without(
    factors: dict[str, torch.Tensor], first: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """BA - B0 A0 as one product of twice the rank."""
    return {
        name: torch.cat([each, -first[name]], dim=0)
        if "lora_A" in name
        else torch.cat([each, first[name]], dim=1)
        for name, each in factors.items()
    }


def _write_adapter(model: TrainedModel, folder: Path) -> None:
    """As `PeftModel.save_pretrained`, without its model card and its look at the hub."""
    module: Any = model.module
    weights = get_peft_model_state_dict(module, save_embedding_layers=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    config = module.peft_config["default"]
    if model.first_factors is not None:
        tensors = _without(tensors, model.first_factors)
        config = copy.deepcopy(config)
        config.init_lora_weights = True
        # The scale that alpha makes with the rank, or with its root, stays as it was.
        config.lora_alpha *= math.sqrt(2) if config.use_rslora else 2
        config.r *= 2
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    trained_in = config.inference_mode
    config.inference_mode = True
    for names in ("target_modules", "target_parameters"):
        if isinstance(getattr(config, names), set):
            setattr(config, names, sorted(getattr(config, names)) or None)
    try:
        config.save_pretrained(str(folder))
    finally:
        config.inference_mode = trained_in


def _write_model(model: TrainedModel, folder: Path) -> None:
    """Weights and config by transformers; tokenizer, chat template and generation defaults are
    the base's own files, byte for byte."""
    causal_lm = model.causal_lm
    weights = _in_dtype(causal_lm.state_dict(), model.export_dtype)
    causal_lm.save_pretrained(folder, state_dict=weights)
    # `save_pretrained` puts the dtype of the weights in training into the config.
    config = copy.deepcopy(causal_lm.config)
    config.dtype = model.export_dtype
    config.save_pretrained(folder)
    for file in model.base_path.iterdir():
        if _is_copied(file, model.trust_remote_code):
            shutil.copyfile(file, folder / file.name)


def _is_copied(file: Path, trust_remote_code: bool) -> bool:
    if not file.is_file() or file.name in _WRITTEN_FILES or file.name.endswith(".index.json"):
        return False
    if file.name.startswith("adapter_"):
        return False
    return file.suffix in _COPIED_SUFFIXES or (trust_remote_code and file.suffix == ".py")


def _in_dtype(weights: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Tensors that share storage still do, so that tied weights are written once."""
    converted: dict[tuple[int, torch.Size], torch.Tensor] = {}
    result: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        key = (tensor.data_ptr(), tensor.shape)
        if key not in converted:
            floating = tensor.is_floating_point()
            converted[key] = tensor.detach().to(dtype) if floating else tensor.detach()
        result[name] = converted[key]
    return result


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))
