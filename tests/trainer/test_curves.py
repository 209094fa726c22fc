"""The pictures of a run show what it reported."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from tests.trainer.conftest import CHATS, Workspace, train
from workers.contract.training import (
    PICTURES,
    Completed,
    Evaluated,
    Step,
    TrainSpec,
    Warned,
)
from workers.trainer.curves import read_curves


def pictures(spec: TrainSpec) -> list[Path]:
    return [path for name in PICTURES if (path := Path(spec.output_dir) / name).exists()]


def texts(svg: Path) -> set[str]:
    """What an SVG's labels say: matplotlib draws their letters as paths, each under a comment."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    comments = ElementTree.parse(svg, parser).iter(ElementTree.Comment)  # type: ignore[arg-type]
    return {(comment.text or "").strip() for comment in comments}


def test_the_curves_are_those_of_the_events(workspace: Workspace) -> None:
    data = {"validation_file": workspace.write("valid.jsonl", CHATS[:4])}
    spec = workspace.spec(data=data)
    events = train(spec)
    curves = read_curves(Path(spec.output_dir) / "events.ndjson")
    steps = {e.step: e.metrics["train_loss"] for e in events if isinstance(e, Step)}
    whole = {e.step: e.metrics["full_valid_loss"] for e in events if isinstance(e, Evaluated)}
    assert curves["train_loss"] == steps
    assert curves["full_valid_loss"] == whole
    png, svg = pictures(spec)
    assert np.asarray(Image.open(png).convert("L")).std() > 10
    assert {"loss", "mean token accuracy", "training", "validation", "step"} <= texts(svg)


def test_the_same_run_draws_the_same_bytes(workspace: Workspace) -> None:
    runs = [workspace.spec(output_dir=name, max_steps=60) for name in ("one", "two")]
    for spec in runs:
        train(spec)
    one, two = ([path.read_bytes() for path in pictures(spec)] for spec in runs)
    assert one == two
    assert "training, smoothed" in texts(pictures(runs[0])[1])


def test_nothing_is_drawn_where_it_is_not_wanted_or_there_is_no_curve(workspace: Workspace) -> None:
    unwanted = workspace.spec(output_dir="one", max_steps=4, plot_loss=False)
    a_point = workspace.spec(output_dir="two", max_steps=1)
    for spec in (unwanted, a_point):
        train(spec)
        assert not pictures(spec)


def test_a_training_is_done_where_its_curves_cannot_be_drawn(workspace: Workspace) -> None:
    spec = workspace.spec(max_steps=4)
    in_the_way = Path(spec.output_dir) / PICTURES[0] / "in the way"
    in_the_way.mkdir(parents=True)
    events = train(spec)
    assert isinstance(events[-1], Completed)
    told = [event.message for event in events if isinstance(event, Warned)]
    assert told == ["The curves could not be drawn."]
