"""Tokens a second of our training loop against a bare Hugging Face `Trainer` on the same rows.

The same pre-tokenised chats, model, adapter, batch size, optimiser and threads; runs of the two
alternate, and each pair gives a ratio. Time is CPU time on one thread, which other programs on the
machine do not stretch. The bare Trainer pads each batch as it comes; its own grouping by length is
measured too. Start-up, data loading and checkpoints are left out of both.

    python -m tests.bench trainer [--kind lora|full ...] [--pairs 3] [--rows 96]
"""

from __future__ import annotations

import argparse
import gc
import logging
import random
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import msgspec
import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
from transformers import __version__ as transformers_version
from transformers.trainer_pt_utils import LabelSmoother

from tests.bench.findings import Finding, record
from tests.trainer.conftest import build_model, build_tokenizer
from workers.contract.training import TrainSpec
from workers.trainer.events import EventLog
from workers.trainer.exports import Exports
from workers.trainer.loop import Loop
from workers.trainer.optimisation import build_optimisation
from workers.trainer.preparation import Data, prepare_data
from workers.trainer.processes import OneProcess
from workers.trainer.room import Room
from workers.trainer.stages.sft import Supervised
from workers.trainer.state import StateFolder
from workers.trainer.stopping import StopRequest

IGNORED = LabelSmoother.ignore_index
BATCH_SIZE = 8
KINDS = ("lora", "full")


def write_base(folder: Path) -> None:
    """About five million weights."""
    tokenizer = build_tokenizer()
    model = build_model(
        4096, hidden_size=256, intermediate_size=768, num_hidden_layers=5, num_attention_heads=8,
        num_key_value_heads=4,
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_rows(path: Path, num_rows: int) -> None:
    """Chats of 20 to 300 tokens: a question, and an answer of about twice its length."""
    rng = random.Random(0)
    with path.open("wb") as file:
        for _ in range(num_rows):
            size = int(rng.lognormvariate(3.2, 0.8)) + 4
            question = "".join(rng.choice("abcdefgh ") for _ in range(min(size, 90)))
            answer = "".join(rng.choice("abcdefgh ") for _ in range(min(2 * size, 180)))
            messages = [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
            file.write(msgspec.json.encode({"messages": messages}) + b"\n")


def spec_of(folder: Path, kind: str, run: int) -> TrainSpec:
    content = {
        "job_id": "bench",
        "output_dir": str(folder / f"run-{kind}-{run}"),
        "model": {"model_name_or_path": str(folder / "base"), "device": "cpu"},
        "data": {"train_file": str(folder / "train.jsonl")},
        "finetuning": {"finetuning_type": kind},
        "training": {
            "num_train_epochs": 1,
            "per_device_train_batch_size": BATCH_SIZE,
            "learning_rate": 1e-4,
        },
    }
    return msgspec.convert(content, TrainSpec)


class _TimedLoop(Loop):
    """Without what follows the steps: both sides are measured at training alone."""

    def _round_off(self, progress: Any) -> None:
        progress.rounded_off = True


def time_ours(spec: TrainSpec, data: Data) -> float:
    output_dir = Path(spec.output_dir)
    output_dir.mkdir()
    stage = Supervised.open(spec)
    schedule = data.schedule(spec)
    log = EventLog(output_dir / "events.ndjson")
    room = Room(log, StopRequest())
    loop = _TimedLoop(
        arguments=spec.training,
        schedule=schedule,
        stage=stage,
        data=data,
        optimisation=build_optimisation(spec, stage.model, schedule.total_steps),
        log=log,
        exports=Exports(output_dir, stage.export, 1, room),
        states=StateFolder(output_dir / "state", {}, room, OneProcess()),
        stop=StopRequest(),
        processes=OneProcess(),
    )
    start = time.process_time()
    loop.run()
    elapsed_s = time.process_time() - start
    log.close()
    return elapsed_s


def pad(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    width = max(len(row["input_ids"]) for row in rows)

    def padded(key: str, filler: int) -> torch.Tensor:
        return torch.tensor([row[key] + [filler] * (width - len(row[key])) for row in rows])

    mask = [[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows]
    return {
        "input_ids": padded("input_ids", 256),
        "labels": padded("labels", IGNORED),
        "attention_mask": torch.tensor(mask),
    }


def time_bare(spec: TrainSpec, data: Data, grouped: bool) -> float:
    model: Any = AutoModelForCausalLM.from_pretrained(spec.model.model_name_or_path)
    if spec.finetuning.finetuning_type == "lora":
        targets = "all-linear"
        model = get_peft_model(
            model, LoraConfig(r=8, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM")
        )
    rows = [
        {"input_ids": ids.tolist(), "labels": labels.tolist()}
        for ids, labels in (
            data.training.sequences(index)[0] for index in range(len(data.training))
        )
    ]
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=spec.output_dir,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=1e-4,
            save_strategy="no",
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            remove_unused_columns=False,
            train_sampling_strategy="group_by_length" if grouped else "random",
        ),
        data_collator=pad,
        train_dataset=rows,
    )
    trainer.log = lambda *arguments, **names: None
    start = time.process_time()
    trainer.train()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=KINDS, action="append", help="both unless told")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=96)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    table = Table(title="Training, tokens a CPU second (medians; ratio: median over pairs)")
    for column in ("run", "bare Trainer", "bare, grouped", "ours", "ours / bare", "/ grouped"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_base(folder / "base")
        write_rows(folder / "train.jsonl", options.rows)
        for kind in options.kind or KINDS:
            table.add_row(kind, *measure(folder, kind, options.pairs))
    Console().print(table)


def measure(folder: Path, kind: str, num_pairs: int) -> list[str]:
    first = spec_of(folder, kind, 0)
    data, _ = prepare_data(first, Supervised.open(first), StopRequest())
    num_tokens = sum(data.training.lengths)
    rates: list[tuple[float, float, float]] = []
    for run in range(num_pairs + 1):
        spec = spec_of(folder, kind, run)
        ours_s = time_ours(spec, data)
        bare_s, grouped_s = (time_bare(spec, data, grouped) for grouped in (False, True))
        gc.collect()
        if run:  # the first round warms up
            rates.append((num_tokens / bare_s, num_tokens / grouped_s, num_tokens / ours_s))
    bare, grouped, ours = (statistics.median(column) for column in zip(*rates, strict=True))
    over_bare = statistics.median(ours / bare for bare, _, ours in rates)
    record(
        Finding(
            what=f"training, {kind}, tokens per CPU-second",
            ours=ours,
            peer=f"bare Trainer, transformers {transformers_version}",
            theirs=bare,
            ratio=over_bare,
            target="at least 1",
        )
    )
    over_grouped = statistics.median(ours / grouped for _, grouped, ours in rates)
    return [f"{value:,.0f}" for value in (bare, grouped, ours)] + [
        f"{over_bare:.2f}",
        f"{over_grouped:.2f}",
    ]


if __name__ == "__main__":
    main()
