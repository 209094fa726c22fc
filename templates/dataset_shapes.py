"""Which shape a file's rows have, told by the columns of the first of them.

The table names every shape that is known. Rows that the service's own reader takes as they are
have none to be turned from. Rows that fit two shapes, or files whose rows are of several, are
refused: which one is meant has to be said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from templates.dataset_format import (
    ALPACA_COLUMNS,
    LABELS,
    MESSAGE_COLUMNS,
    OPENAI_TAGS,
    SHAREGPT_TAGS,
    VERDICTS,
    WORDS_OF_VERDICTS,
    Columns,
    DatasetFormat,
    Formatting,
    ranked,
)
from templates.example_fields import JsonObject, shown_name
from templates.example_lines import ExampleFileError

NUM_LOOKED_AT = 20
"""Rows at a file's beginning."""
_NUM_SHOWN_COLUMNS = 12


Layout = Callable[[JsonObject, str | None], DatasetFormat]
"""Of a row, and the column of its label."""


@dataclass(frozen=True, slots=True)
class Shape:
    name: str
    needs: tuple[tuple[str, ...], ...]
    """Columns, of each group at least one."""
    layout: Layout | None
    """None: it is read as it is."""


_ANSWERS = (("chosen",), ("rejected",))


def _alpaca(_row: JsonObject, label: str | None) -> DatasetFormat:
    return DatasetFormat(Formatting.ALPACA, replace(ALPACA_COLUMNS, kto_tag=label))


def _ranked_alpaca(_row: JsonObject, _label: str | None) -> DatasetFormat:
    return DatasetFormat(Formatting.ALPACA, ranked(ALPACA_COLUMNS), ranking=True)


def _ranked_answers(row: JsonObject, label: str | None) -> DatasetFormat:
    """Texts, or messages as TRL has them: behind the prompt's, or with the prompt in front."""
    if isinstance(row["prompt"], list):
        return _messages("prompt", ranking=True)(row, label)
    if isinstance(row["chosen"], list):
        return _messages(None, ranking=True)(row, label)
    columns = replace(ranked(ALPACA_COLUMNS), prompt="prompt", query=None, history=None)
    return DatasetFormat(Formatting.ALPACA, columns, ranking=True)


def _labelled_pair(_row: JsonObject, label: str | None) -> DatasetFormat:
    columns = Columns(prompt="prompt", response="completion", kto_tag=label)
    return DatasetFormat(Formatting.ALPACA, columns)


def _messages(name: str | None, *, ranking: bool = False, labelled: bool = False) -> Layout:
    def layout(row: JsonObject, label: str | None) -> DatasetFormat:
        kto_tag = label if labelled else None
        columns = replace(MESSAGE_COLUMNS, messages=name, kto_tag=kto_tag)
        is_openai = _has_roles(row[name or "chosen"])
        return DatasetFormat(
            Formatting.OPENAI if is_openai else Formatting.SHAREGPT,
            ranked(columns) if ranking else columns,
            OPENAI_TAGS if is_openai else SHAREGPT_TAGS,
            ranking,
        )

    return layout


def _has_roles(messages: Any) -> bool:
    if isinstance(messages, str):
        return '"role"' in messages
    first: Any = messages[0] if isinstance(messages, list) and messages else None
    return isinstance(first, dict) and "role" in first


SHAPES = (
    Shape("OpenAI's preferences", (("input",), ("preferred_output", "preferred_completion")), None),
    Shape("messages", (("messages",),), None),
    Shape("labelled messages", (("messages",), LABELS), _messages("messages", labelled=True)),
    Shape("ranked messages", (("messages",), *_ANSWERS), _messages("messages", ranking=True)),
    Shape("sharegpt", (("conversations",),), _messages("conversations")),
    Shape(
        "labelled sharegpt",
        (("conversations",), LABELS),
        _messages("conversations", labelled=True),
    ),
    Shape(
        "ranked sharegpt", (("conversations",), *_ANSWERS), _messages("conversations", ranking=True)
    ),
    Shape("alpaca", (("instruction",), ("output",)), _alpaca),
    Shape("ranked alpaca", (("instruction",), *_ANSWERS), _ranked_alpaca),
    Shape("prompt and completion", (("prompt",), ("completion",)), None),
    Shape("labelled completions", (("prompt",), ("completion",), LABELS), _labelled_pair),
    Shape("ranked answers", (("prompt",), *_ANSWERS), _ranked_answers),
    Shape("ranked conversations", _ANSWERS, _messages(None, ranking=True)),
    Shape("plain text", (("text",),), None),
)
_BY_NAME = {shape.name: shape for shape in SHAPES}
_TEXT = _BY_NAME["plain text"]
_LABELLED = _BY_NAME["labelled messages"]


def known_shapes() -> str:
    return "; ".join(f"{shape.name} ({_needed(shape)})" for shape in SHAPES)


def _needed(shape: Shape) -> str:
    return ", ".join(" or ".join(f"'{name}'" for name in group) for group in shape.needs)


def recognise(
    rows: Iterable[tuple[int, JsonObject]], *, pretraining: bool = False, labelled: bool = False
) -> DatasetFormat | None:
    """The format that a file's first rows are to be turned from; None for rows that are read as
    they are, or that no shape fits. `pretraining`: a row's text is what is wanted of it;
    `labelled`: its label is, and may be a number. Raises ExampleFileError."""
    found: dict[str, tuple[int, JsonObject]] = {}
    is_plain = True
    for number, row in rows:
        names = _telling(row, labelled)
        is_plain = is_plain and _has_plain_labels(row, names)
        shapes = [_TEXT] if pretraining and "text" in names else _fitting(names)
        if len(shapes) > 1:
            raise ExampleFileError(
                f"The columns of row {number} ({_listed(row)}) fit more than one shape: "
                f"{' and '.join(f'{s.name} ({_needed(s)})' for s in shapes)}. Say which is meant "
                "with 'dataset', or leave out the columns of the other."
            )
        for shape in shapes:
            found.setdefault(shape.name, (number, row))
    if not found:
        return None
    name, (first, row) = next(iter(found.items()))
    turned = [each for each in found if _BY_NAME[each].layout is not None]
    if len(found) > 1 and turned:
        other, (second, _) = list(found.items())[1]
        raise ExampleFileError(
            f"Rows of several shapes in one file: row {first} is {name}, row {second} is {other}."
        )
    chosen = _BY_NAME[name]
    label = _label(row, labelled)
    if chosen is _LABELLED and is_plain and _is_openai(row["messages"]):
        return None
    if chosen.layout is not None:
        return chosen.layout(row, label)
    if name == "messages" and not _is_openai(row["messages"]):
        return _messages("messages")(row, label)
    return None


def _telling(row: JsonObject, labelled: bool) -> set[str]:
    """Columns that hold something. One of a label is a verdict, or somebody's classes."""
    verdicts = VERDICTS if labelled else WORDS_OF_VERDICTS
    return {
        name
        for name, value in row.items()
        if value is not None and (name not in LABELS or str(value).lower() in verdicts)
    }


def _has_plain_labels(row: JsonObject, names: set[str]) -> bool:
    """Whether the reader takes them: verdicts that are no text. Nor does it take a system text
    beside messages."""
    labels = {name for name in LABELS if row.get(name) is not None}
    return labels <= names and not any(isinstance(row[n], str) for n in labels | names & {"system"})


def _label(row: JsonObject, labelled: bool) -> str | None:
    names = _telling(row, labelled)
    return next((name for name in LABELS if name in names), None)


def _is_openai(messages: Any) -> bool:
    """Whether the reader takes them as they are, or knows best what is wrong with them."""
    if isinstance(messages, str):
        return not messages.lstrip().startswith("[")
    first: Any = messages[0] if isinstance(messages, list) and messages else None
    return not isinstance(first, dict) or "role" in first or "from" not in first


def _fitting(names: set[str]) -> list[Shape]:
    """Those whose columns are there, less those that another one's include. Plain text stands
    beside nothing else."""
    fits = [s for s in SHAPES if all(names.intersection(group) for group in s.needs)]
    kept = [s for s in fits if not any(_includes(other, s) for other in fits)]
    others = [s for s in kept if s is not _TEXT]
    return others or kept


def _includes(other: Shape, shape: Shape) -> bool:
    return len(other.needs) > len(shape.needs) and set(shape.needs) <= set(other.needs)


def _listed(row: JsonObject) -> str:
    shown = [f"'{shown_name(name)}'" for name in list(row)[:_NUM_SHOWN_COLUMNS]]
    return ", ".join(shown) + (", ..." if len(row) > _NUM_SHOWN_COLUMNS else "")


def told_columns(row: JsonObject) -> str:
    """For a row that no shape fits: what it has, and what there is."""
    found = f"It has the columns {_listed(row)}" if row else "It has no columns"
    return f"{found}; known are {known_shapes()}. Others are named with 'dataset'."
