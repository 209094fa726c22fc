"""What can be said of a spec without starting its engine: whether its template is the model's own,
and whether adapters fit its model. Needs the tokenizer and the headers of weights, no engine."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from workers.contract.parts import AdapterRef
from workers.engine.adapter_files import Shapes, base_shapes, check_adapter
from workers.engine.adapter_kinds import rules_of
from workers.engine.backend import RefusedError
from workers.engine.backends import create
from workers.engine.spec import BackendName, EngineSpec, SpecError
from workers.engine.template_check import template_difference
from workers.engine.text.pretrained import load_vocabulary
from workers.engine.text.vocabulary import Vocabulary


class Findings(msgspec.Struct):
    """For the operator to read. `problem` is why nothing could be looked at."""

    problem: str | None = None
    template_difference: str | None = None
    adapters: dict[str, str] = {}
    """Why they cannot be served, by their ids."""


def look(spec: EngineSpec, adapters: dict[str, str]) -> Findings:
    """`adapters` are directories by id."""
    found = Findings()
    try:
        if spec.template is not None:
            found.template_difference = template_difference(spec, _vocabulary(spec))
    except (SpecError, OSError, ValueError) as error:
        found.problem = str(error)
    if not adapters:
        return found
    rules, base = rules_of(spec.backend, spec.max_lora_rank), _base(spec)
    for number, (name, path) in enumerate(adapters.items(), 1):
        try:
            check_adapter(AdapterRef(name, number, path), base, rules)
        except RefusedError as refusal:
            found.adapters[name] = refusal.message
    return found


def _vocabulary(spec: EngineSpec) -> Vocabulary:
    if spec.model_path is None or spec.backend is BackendName.SCRIPTED:
        return create(spec)[1]
    return load_vocabulary(
        spec.model_path, trust_remote_code=spec.trust_remote_code, spells_output=True
    )


def _base(spec: EngineSpec) -> Shapes | None:
    """None where layers cannot be told by the names in the files: without files, and where
    transformers gives the parts of a model that sees other names than they have there."""
    if spec.model_path is None:
        return None
    try:
        config = json.loads((Path(spec.model_path) / "config.json").read_bytes())
    except (OSError, ValueError):
        return None
    if "vision_config" in config:
        return None
    shapes = base_shapes(spec.model_path)
    if config.get("tie_word_embeddings") and spec.backend is BackendName.HF:
        # The output layer is in no file of its own.
        embeddings = [n for n in shapes if n.endswith("embed_tokens.weight")]
        if embeddings:
            shapes.setdefault("lm_head.weight", shapes[embeddings[0]])
    return shapes or None
