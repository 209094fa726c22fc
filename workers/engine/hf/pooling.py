"""How a model's hidden states become one vector, as the model entry or the model itself declares.

A sentence-transformers directory says it in `modules.json` (the chain of modules) and the pooling
module's own `config.json` (https://sbert.net, `sentence_transformers.models.Pooling`). Embeddings
cut short (`dimensions`) are for models that declare `is_matryoshka` or `matryoshka_dimensions` in
`config.json`, as vLLM reads them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workers.contract.messages import FailureKind
from workers.engine.backend import RefusedError
from workers.engine.hf.settings import HfSettings
from workers.engine.spec import SpecError

_MODE_PREFIX = "pooling_mode_"
_MODES = {
    "cls": "cls",
    "cls_token": "cls",
    "mean": "mean",
    "mean_tokens": "mean",
    "last": "last",
    "lasttoken": "last",
}


class PoolingKind(StrEnum):
    MEAN = "mean"
    LAST = "last"
    CLS = "cls"


@dataclass(frozen=True, slots=True)
class Pooling:
    kind: PoolingKind
    normalize: bool = True
    is_matryoshka: bool = False
    dimensions: tuple[int, ...] = ()
    """The lengths a matryoshka model was trained for; empty: any."""

    def check_dimensions(self, asked: int | None, size: int) -> None:
        """Raises RefusedError."""
        if asked is None:
            return
        if not self.is_matryoshka:
            raise RefusedError(
                FailureKind.UNSUPPORTED, "This model does not support dimensions.", "dimensions"
            )
        if self.dimensions and asked not in self.dimensions:
            listed = ", ".join(map(str, self.dimensions))
            raise _bad_dimensions(f"dimensions must be one of {listed}.")
        if not 1 <= asked <= size:
            raise _bad_dimensions(f"dimensions must be between 1 and {size}.")

    def finish(self, rows_BH: Tensor, dimensions: int | None) -> list[bytes]:
        """One little-endian float32 vector a row. Cut first: what is left has length 1 again."""
        rows_BH = rows_BH.float()[:, :dimensions]
        if self.normalize:
            rows_BH = torch.nn.functional.normalize(rows_BH, dim=-1)
        return [row.astype("<f4").tobytes() for row in rows_BH.numpy()]


def pool(hidden_BTH: Tensor, lengths: Sequence[int], kind: PoolingKind) -> Tensor:
    """Float32 [B, H] of rows that are padded on the right."""
    if kind is PoolingKind.CLS:
        return hidden_BTH[:, 0].float()
    sizes = torch.tensor(lengths, device=hidden_BTH.device)
    if kind is PoolingKind.LAST:
        rows = torch.arange(len(lengths), device=hidden_BTH.device)
        return hidden_BTH[rows, sizes - 1].float()
    places = torch.arange(hidden_BTH.shape[1], device=hidden_BTH.device)
    inside = (places[None, :] < sizes[:, None]).unsqueeze(-1)
    return (hidden_BTH.float() * inside).sum(1) / sizes[:, None]


def read_pooling(path: str | Path, settings: HfSettings) -> Pooling | None:
    """None where neither the entry nor the model declares one. Raises SpecError."""
    folder = Path(path)
    kind, normalize = _read_modules(folder)
    if settings.pooling is not None:
        kind = PoolingKind(settings.pooling)
    if kind is None:
        return None
    if settings.normalize is not None:
        normalize = settings.normalize
    config = read_json(folder / "config.json") or {}
    dimensions = settings.matryoshka_dimensions or config.get("matryoshka_dimensions") or ()
    declared = settings.is_matryoshka
    is_matryoshka = config.get("is_matryoshka", False) if declared is None else declared
    return Pooling(
        kind, normalize, bool(is_matryoshka or dimensions), tuple(sorted(map(int, dimensions)))
    )


def read_json(file: Path) -> Any:
    """None without the file. Raises SpecError."""
    try:
        return json.loads(file.read_bytes()) if file.is_file() else None
    except ValueError as error:
        raise SpecError(f"{file.name} is not JSON: {error}") from error


def _read_modules(folder: Path) -> tuple[PoolingKind | None, bool]:
    modules: list[dict[str, Any]] | None = read_json(folder / "modules.json")
    if modules is None:
        config = read_json(folder / "1_Pooling" / "config.json")
        return (None if config is None else _kind_of(config)), True
    kind = None
    names: list[str] = []
    for module in modules:
        name = str(module.get("type", "")).rpartition(".")[2]
        names.append(name)
        if name == "Pooling":
            kind = _kind_of(read_json(folder / str(module.get("path", "")) / "config.json") or {})
    strange = sorted(set(names) - {"Transformer", "Pooling", "Normalize"})
    if strange:
        raise SpecError(f"modules.json: {', '.join(strange)} cannot be served by the HF engine")
    return kind, "Normalize" in names


def _kind_of(config: dict[str, Any]) -> PoolingKind:
    mode = config.get("pooling_mode")
    chosen = [mode] if isinstance(mode, str) else []
    if not chosen:
        chosen = [
            name.removeprefix(_MODE_PREFIX)
            for name, is_on in config.items()
            if name.startswith(_MODE_PREFIX) and is_on is True
        ]
    if len(chosen) != 1 or chosen[0] not in _MODES:
        raise SpecError(
            f"the model's pooling ({', '.join(chosen) or 'none'}) is not one of mean, last, cls"
        )
    return PoolingKind(_MODES[chosen[0]])


def _bad_dimensions(message: str) -> RefusedError:
    return RefusedError(FailureKind.INVALID_REQUEST, message, "dimensions")
