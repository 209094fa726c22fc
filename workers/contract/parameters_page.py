"""Writes the table of the parameters that a job can set, `docs/parameters.md`.

python -m workers.contract.parameters_page            # rewrites the page
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from workers.contract.parameters import Parameter, settable

PAGE = Path(__file__).resolve().parents[2] / "docs" / "parameters.md"

_HEAD = """# Parameters of fine-tuning jobs

What `method.<type>.hyperparameters` takes beside OpenAI's `n_epochs`, `batch_size`,
`learning_rate_multiplier` and, for stages dpo and kto, `beta`. `fine-tuning.md` says which method
is which stage. Names and meanings are LLaMA-Factory's and Hugging Face's. Anything else is a 400
that names the field.

This page is generated: `python -m workers.contract.parameters_page`.

| name | type | default | for | meaning |
|---|---|---|---|---|
"""


def page() -> str:
    return _HEAD + "".join(map(_row, settable().values()))


def _row(parameter: Parameter) -> str:
    place = parameter.place
    kinds = [*place.stages, *place.types]
    cells = [
        f"`{parameter.name}`",
        _type(parameter.type) + (" or null" if place.instead_of else ""),
        _default(parameter.unset),
        ", ".join(map(str, kinds)) or "all",
        parameter.doc,
    ]
    return f"| {' | '.join(cells)} |\n"


def _type(annotation: Any) -> str:
    if get_origin(annotation) is not Annotated:
        return " or ".join(
            "null" if part is type(None) else _type(part) for part in _members(annotation)
        )
    kind, meta = get_args(annotation)
    if get_origin(kind) is Literal or issubclass(kind, StrEnum):
        return ", ".join(f"`{value}`" for value in _values(kind))
    words = {int: "integer", float: "number", bool: "boolean", str: "string"}
    return " ".join(filter(None, (words[kind], _range(meta))))


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation)


def _values(kind: Any) -> tuple[str, ...]:
    return get_args(kind) if get_origin(kind) is Literal else tuple(kind)


def _range(meta: msgspec.Meta) -> str:
    limits = [(">=", meta.ge), (">", meta.gt), ("<=", meta.le), ("<", meta.lt)]
    return " and ".join(f"{sign} {limit:,}" for sign, limit in limits if limit is not None)


def _default(value: Any) -> str:
    if value is None:
        return "null"
    return f"`{value}`" if isinstance(value, str) else str(value).lower()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
