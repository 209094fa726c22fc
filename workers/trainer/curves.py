"""The curves of a run as pictures: a panel for the loss, and one for whatever else is measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import matplotlib as mpl
import msgspec
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workers.contract.training import PICTURES, Evaluated, Step, TrainEvent
from workers.trainer.room import Room

_KINDS = {"train_": "training", "valid_": "validation, one batch", "full_valid_": "validation"}
_PANEL_INCHES = (7.0, 3.2)
_SMOOTHING = 0.9
"""Of the exponential mean that is drawn over a curve of many steps."""
_MIN_SMOOTHED_STEPS = 50
_decoder = msgspec.json.Decoder(TrainEvent)

Curve = dict[int, float]
"""Values by step."""


def draw_curves(output_dir: Path, room: Room) -> None:
    """Writes PICTURES of all that the run has reported; nothing where there are fewer than two
    steps. Raises StopRequested while it waits for room."""
    curves = read_curves(output_dir / "events.ndjson")
    if len(curves.get("train_loss", ())) < 2:
        return
    figure = _figure(curves)
    for name in PICTURES:
        room.place(output_dir / name, partial(_save, figure, name))


def _save(figure: Figure, name: str, path: Path) -> None:
    """Without a date and with a fixed salt, so that the same run gives the same bytes."""
    suffix = name.rpartition(".")[2]
    with mpl.rc_context({"svg.hashsalt": "tuneyard"}):
        metadata = {"Date": None} if suffix == "svg" else None
        figure.savefig(path, format=suffix, metadata=metadata)


def read_curves(events: Path) -> Mapping[str, Curve]:
    """By metric. A step that was trained twice counts as it was the last time."""
    curves: dict[str, Curve] = {}
    for line in events.read_bytes().splitlines():
        event = _decoder.decode(line)
        if isinstance(event, Step | Evaluated):
            for name, value in event.metrics.items():
                curves.setdefault(name, {})[event.step] = value
    return curves


def _figure(curves: Mapping[str, Curve]) -> Figure:
    panels = _panels(curves)
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width, height * len(panels)), layout="constrained")
    for row, (what, names) in enumerate(panels.items()):
        axes = figure.add_subplot(len(panels), 1, row + 1)
        for name, kind in names.items():
            _draw(axes, kind, curves[name])
        axes.set_title(what.replace("_", " "))
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def _panels(curves: Mapping[str, Curve]) -> dict[str, dict[str, str]]:
    """What is measured, the loss first, and of each its metrics with the words for their kind."""
    panels: dict[str, dict[str, str]] = {"loss": {}}
    for name in curves:
        prefix = next(prefix for prefix in _KINDS if name.startswith(prefix))
        panels.setdefault(name.removeprefix(prefix), {})[name] = _KINDS[prefix]
    return panels


def _draw(axes: Axes, kind: str, curve: Curve) -> None:
    steps = sorted(curve)
    values = [curve[step] for step in steps]
    if len(steps) < _MIN_SMOOTHED_STEPS:
        axes.plot(steps, values, marker=".", label=kind)
        return
    (line,) = axes.plot(steps, values, alpha=0.3)
    axes.plot(steps, _smoothed(values), color=line.get_color(), label=f"{kind}, smoothed")


def _smoothed(values: list[float]) -> list[float]:
    """An exponential mean that leans on the first value no more than on the others."""
    mean, smoothed = 0.0, list[float]()
    for number, value in enumerate(values, start=1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * (value if math.isfinite(value) else mean)
        smoothed.append(mean / (1 - _SMOOTHING**number))
    return smoothed
