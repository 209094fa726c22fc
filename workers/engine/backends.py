"""Which backend a spec names. Imported only when chosen: each has its own dependencies."""

from __future__ import annotations

import importlib

from workers.engine.backend import Backend
from workers.engine.spec import BackendName, EngineSpec, SpecError
from workers.engine.text.vocabulary import Vocabulary

_MODULES = {
    BackendName.HF: "workers.engine.hf.backend",
    BackendName.VLLM: "workers.engine.vllm.backend",
    BackendName.SGLANG: "workers.engine.sglang.backend",
    BackendName.ATTACHED: "workers.engine.attached.backend",
    BackendName.SCRIPTED: "workers.engine.scripted.backend",
}
"""Each has `create(spec: EngineSpec) -> tuple[Backend, Vocabulary]`, which reads the spec's
settings and raises SpecError, but does not load the model yet."""


def create(spec: EngineSpec) -> tuple[Backend, Vocabulary]:
    """Raises SpecError."""
    name = _MODULES[spec.backend]
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise SpecError(f"backend {spec.backend} cannot be loaded here: {error}") from error
    return module.create(spec)
