"""The data sets that a LLaMA-Factory config names.

A name is an entry of `dataset_info.json` in the config's `dataset_dir`, or a file's path.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from server.datasets.prepared import format_of
from server.errors import ApiError
from server.fine_tuning.dataset import Dataset
from templates.dataset_format import DatasetFormat
from templates.example_lines import ExampleFileError
from workers.contract.parameters import Stage

_INFO = "dataset_info.json"
_DEFAULT_DIR = "data"
_SOURCES = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
_LAYOUT = ("formatting", "columns", "tags", "ranking")
_NOT_LOCAL = ("REMOTE:", "ONLINE")


class DataSetError(Exception):
    """A data set that cannot be uploaded; the message is for the person who named it."""


@contextmanager
def named_faults(path: Path) -> Generator[None]:
    """What is wrong with the file is a DataSetError that names it."""
    try:
        yield
    except ExampleFileError as error:
        raise DataSetError(f"{path}: {error}") from error


@dataclass(frozen=True, slots=True)
class DataSet:
    name: str
    path: Path
    layout: Mapping[str, Any]
    """What its entry says of its columns."""

    def format(self, stage: Stage) -> DatasetFormat | None:
        """As its entry says, or else its first rows. Raises DataSetError."""
        if not self.layout:
            with named_faults(self.path):
                return format_of(self.path, stage)
        try:
            return Dataset.model_validate(self.layout).layout()
        except (ValidationError, ApiError) as error:
            raise DataSetError(f"{self.name}: {error}") from error


def find_data_sets(names: Sequence[str], dataset_dir: object, beside: Path | None) -> list[DataSet]:
    """`beside` is the config's folder, in which paths are tried too. Raises DataSetError."""
    if isinstance(dataset_dir, str) and dataset_dir.startswith(_NOT_LOCAL):
        raise DataSetError(
            f"dataset_dir {dataset_dir!r} is not on this machine: download the data sets, and name "
            "the folder they are in"
        )
    if isinstance(dataset_dir, Mapping):
        info, folders = cast(Mapping[str, Any], dataset_dir), [Path(_DEFAULT_DIR)]
    else:
        folder = Path(str(dataset_dir or _DEFAULT_DIR))
        folders = [folder] if beside is None else [folder, beside / folder]
        info = _read_info(folders)
    return [_find(name, info, [*folders, Path(), *([beside] if beside else [])]) for name in names]


def _read_info(folders: Sequence[Path]) -> Mapping[str, Any]:
    for folder in folders:
        path = folder / _INFO
        if path.is_file():
            try:
                info = json.loads(path.read_bytes())
            except ValueError as error:
                raise DataSetError(f"{path} is not JSON: {error}") from error
            if not isinstance(info, dict):
                raise DataSetError(f"{path}: expected data sets by name")
            return info
    return {}


def _find(name: str, info: Mapping[str, Any], folders: Sequence[Path]) -> DataSet:
    entry = info.get(name)
    if entry is None:
        found = _file(name, folders)
        if found is None:
            near = difflib.get_close_matches(name, info, 1)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise DataSetError(
                f"There is no data set {name!r}: no entry of {_INFO} in {folders[0]}, and no "
                f"file.{meant}"
            )
        return DataSet(name, found, {})
    if not isinstance(entry, Mapping):
        raise DataSetError(f"{_INFO}: the entry {name!r} must hold settings by name")
    return _of_entry(name, cast(Mapping[str, Any], entry), folders)


def _of_entry(name: str, entry: Mapping[str, Any], folders: Sequence[Path]) -> DataSet:
    if any(source in entry for source in _SOURCES):
        raise DataSetError(f"{name} is not on this machine: download it, and name the file")
    for key in ("subset", "folder", "num_samples"):
        if entry.get(key) is not None:
            raise DataSetError(f"{name}: {key} of {_INFO} is not understood; leave it out")
    file_name = str(entry.get("file_name") or "")
    found = _file(file_name, folders) if file_name else None
    if found is None:
        raise DataSetError(f"{name}: there is no file {file_name!r} in {folders[0]}")
    return DataSet(name, found, {key: entry[key] for key in _LAYOUT if key in entry})


def _file(name: str, folders: Sequence[Path]) -> Path | None:
    return next((path for folder in folders if (path := folder / name).is_file()), None)
