"""Stands in for SGLang's compiled CUDA kernels in CPU tests, and nowhere else.

The real `sgl_kernel` has no build for a machine without a GPU, yet SGLang imports names from it and
from its submodules at start. Here every name resolves and raises when called, so a test that passes
has called none of them: with the `torch_native` backends a dense model runs on PyTorch alone.
Tests that use it say "SGLang, kernels stubbed".
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn


class KernelStubbedError(RuntimeError):
    """A test reached a kernel that only the compiled package has."""


class _Kernel:
    """A name of the compiled package: has any attribute, and cannot be called."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __getattr__(self, name: str) -> _Kernel:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Kernel(f"{self.__name__}.{name}")

    def __call__(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise KernelStubbedError(f"{self.__name__} is a compiled kernel, stubbed in CPU tests")


class _StubModule(ModuleType):
    def __getattr__(self, name: str) -> _Kernel:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Kernel(f"{self.__name__}.{name}")


class _StubFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes every `sgl_kernel.<anything>` importable."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith("sgl_kernel."):
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _StubModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """A stub has nothing to run."""


def __getattr__(name: str) -> _Kernel:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Kernel(f"sgl_kernel.{name}")


sys.meta_path.append(_StubFinder())
