"""Adapters as PEFT no longer writes them, made plain: pickled weights become safetensors, and what
an initialisation took out of the base model (PiSSA, OLoRA) stands beside the trained factors.

The result lies in a directory of its own within the adapter's, written beside and renamed; it goes
when the adapter goes. Pickles are read by torch's restricted unpickler, which makes tensors and
runs nothing, after their sizes have been looked at.

PiSSA and OLoRA train on W - s B0 A0, so the base that is served here lacks that part. Training's
first factors are either stored beside, or computed again from W: the product s B0 A0 is W's best
approximation of that rank (PiSSA) or the beginning of its QR decomposition (OLoRA), whatever the
signs of single factors. `pissa_niter_N` draws random numbers and cannot be computed again.
"""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from workers.contract.adapter_layout import (
    CONFIG_FILE,
    INITIAL_FILE,
    PICKLED_FILE,
    WEIGHTS_FILE,
)
from workers.contract.parts import AdapterRef
from workers.engine.adapter_files import PEFT_PREFIX, invalid, pattern_value, read_shapes
from workers.engine.adapter_kinds import converted_init

CONVERTED_FOLDER = "converted"
MAX_PICKLED_BYTES = 8 << 30


def convert(adapter: AdapterRef, model_path: str | Path) -> AdapterRef:
    """The adapter with a path to plain files. It has been checked, and has none yet. Blocking:
    PiSSA decomposes each adapted weight of the base. Raises RefusedError."""
    folder = Path(adapter.path)
    target = folder / CONVERTED_FOLDER
    try:
        config = json.loads((folder / CONFIG_FILE).read_bytes())
        if not target.is_dir():
            _write(adapter, config, model_path, target)
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
        raise invalid(adapter, f"it cannot be converted ({type(error).__name__})") from error
    return msgspec.structs.replace(adapter, path=str(target))


def pickled_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Raises OSError or ValueError."""
    return {name: tuple(tensor.shape) for name, tensor in _read_pickled(folder).items()}


def _write(adapter: AdapterRef, config: dict[str, Any], base: str | Path, target: Path) -> None:
    folder = Path(adapter.path)
    is_plain = (folder / WEIGHTS_FILE).is_file()
    tensors = load_file(folder / WEIGHTS_FILE) if is_plain else _read_pickled(folder)
    if (init := converted_init(config)) is not None:
        initial = _initial_factors(adapter, init, config, Path(base))
        tensors, config = _with_initial(tensors, initial), _doubled(config)
    beside = target.with_name(f".{token_hex(8)}")
    beside.mkdir()
    try:
        (beside / CONFIG_FILE).write_text(json.dumps(config))
        own = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
        save_file(own, beside / WEIGHTS_FILE)
        beside.rename(target)
    except OSError:
        if not target.is_dir():  # else another engine was faster
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


# --- pickled weights ------------------------------------------------------------------------------


def _read_pickled(folder: Path) -> dict[str, Tensor]:
    """Memory-mapped. Raises OSError or ValueError."""
    file = folder / PICKLED_FILE
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{PICKLED_FILE} is not what torch 1.6 or newer writes")
    with zipfile.ZipFile(file) as archive:
        num_bytes = sum(entry.file_size for entry in archive.infolist())
    if num_bytes > MAX_PICKLED_BYTES:
        raise ValueError(f"{PICKLED_FILE} is over the limit of {MAX_PICKLED_BYTES} bytes")
    try:
        tensors: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the unpickler raises what the pickle makes it raise
        raise ValueError(f"{PICKLED_FILE} holds something else than tensors") from error
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor)
        for name, tensor in tensors.items()  # pyright: ignore
    ):
        raise ValueError(f"{PICKLED_FILE} is not a table of tensors")
    found: dict[str, Tensor] = tensors
    # A view may claim more elements than its storage has.
    if sum(tensor.numel() * tensor.itemsize for tensor in found.values()) > num_bytes:
        raise ValueError(f"{PICKLED_FILE} holds tensors larger than itself")
    return {name: tensor.detach() for name, tensor in found.items()}


# --- what an initialisation took out of the base --------------------------------------------------

Factors = tuple[Tensor, Tensor]
Initial = Callable[[str, int], Factors]
"""A0 and B0 of a layer, by its name and rank."""


def _initial_factors(adapter: AdapterRef, init: str, config: dict[str, Any], base: Path) -> Initial:
    stored = Path(adapter.path) / INITIAL_FILE
    if stored.is_file():
        first = load_file(stored)
        return lambda module, _: (
            first[f"{PEFT_PREFIX}{module}.lora_A.weight"].float(),
            first[f"{PEFT_PREFIX}{module}.lora_B.weight"].float(),
        )
    if "_niter_" in init:
        raise invalid(
            adapter,
            f"init_lora_weights={init!r} changed its base by random numbers, and the factors that "
            f"training began with are not beside it ({INITIAL_FILE})",
        )
    decompose = {"pissa": _pissa, "olora": _olora}[init]
    weight = _base_weights(base)

    def compute(module: str, rank: int) -> Factors:
        found = weight(f"{module}.weight")
        if found is None or not found.is_floating_point():
            raise invalid(
                adapter,
                f"what init_lora_weights={init!r} took out of {module} cannot be computed: the "
                "base model's files do not hold it by that name, or quantized",
            )
        turned = found.t() if config.get("fan_in_fan_out") else found
        return decompose(turned.float(), rank, _scaling(config, module, rank))

    return compute


def _pissa(weight: Tensor, rank: int, scaling: float) -> Factors:
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    root = (s[:rank] / scaling).sqrt()
    return root[:, None] * vh[:rank], u[:, :rank] * root


def _olora(weight: Tensor, rank: int, _scaling: float) -> Factors:
    q, r = torch.linalg.qr(weight)
    return r[:rank], q[:, :rank]


def _scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    alpha = pattern_value(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _with_initial(tensors: dict[str, Tensor], initial: Initial) -> dict[str, Tensor]:
    """B A - B0 A0 as one pair of factors."""
    made: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.endswith(".lora_A.weight"):
            if not name.endswith(".lora_B.weight"):
                made[name] = tensor
            continue
        module = name.removeprefix(PEFT_PREFIX).removesuffix(".lora_A.weight")
        b_name = name.replace(".lora_A.weight", ".lora_B.weight")
        a0, b0 = initial(module, tensor.shape[0])
        made[name] = torch.cat([tensor.float(), a0], 0)
        made[b_name] = torch.cat([tensors[b_name].float(), -b0], 1)
    return made


def _doubled(config: dict[str, Any]) -> dict[str, Any]:
    """Ranks twice as large, at the same scaling."""
    growth = math.sqrt(2) if config.get("use_rslora") else 2
    return {
        **config,
        "init_lora_weights": True,
        "r": 2 * config["r"],
        "lora_alpha": growth * config["lora_alpha"],
        "rank_pattern": {k: 2 * v for k, v in (config.get("rank_pattern") or {}).items()},
        "alpha_pattern": {k: growth * v for k, v in (config.get("alpha_pattern") or {}).items()},
    }


def _base_weights(base: Path) -> Callable[[str], Tensor | None]:
    """Reads the base model's weights by their names in its files."""
    where: dict[str, Path] = {}
    for file in sorted(base.glob("*.safetensors")):
        where |= dict.fromkeys(read_shapes(file), file)

    def read(name: str) -> Tensor | None:
        file = where.get(name)
        if file is None:
            return None
        with safe_open(file, framework="pt", device="cpu") as tensors:
            return tensors.get_tensor(name)

    return read
