"""Makes tuneyard-mini from nothing: text, tokenizer, pretraining, fine-tuning, acceptance, card.

    python -m deploy.model.build [--work DIR] [--output DIR]

Training is Tuneyard's own (`workers.trainer`, stages `pt` and `sft` with finetuning_type full). A
run that was stopped goes on from its last checkpoint in `--work`.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from deploy.model.acceptance import Report, examine
from deploy.model.architecture import CONTEXT_LENGTH, VOCAB_SIZE, generation_config, model_config
from deploy.model.card import StageRun, write_card
from deploy.model.corpus import mixture
from deploy.model.tokenizer import save_tokenizer, train_tokenizer
from workers.contract.parameters import (
    DataArguments,
    FinetuningArguments,
    FinetuningType,
    ModelArguments,
    Stage,
    TrainingArguments,
)
from workers.contract.training import Completed, Started, Step, TrainEvent, TrainSpec

_log = logging.getLogger(__name__)
_HERE = Path(__file__).parent
OUTPUT = _HERE / "tuneyard-mini"
_SEED = 1
_NUM_TOKENIZER_CONVERSATIONS = 12_000
_SHIPPED = ("model.safetensors", "config.json", "generation_config.json", "tokenizer.json",
            "tokenizer_config.json")  # fmt: skip


@dataclass(frozen=True, slots=True)
class StagePlan:
    name: str
    stage: Stage
    num_examples: int
    num_epochs: float
    batch_size: int
    learning_rate: float
    lr_scheduler_type: str
    seed: int
    is_last: bool = False


PLANS = (
    StagePlan("pretrain", Stage.PT, 22_000, 1, 24, 3e-3, "constant_with_warmup", seed=1),
    StagePlan("talk", Stage.SFT, 40_000, 1, 32, 2e-3, "cosine", seed=1),
    StagePlan("copy", Stage.SFT, 40_000, 1, 32, 2e-3, "cosine", seed=2, is_last=True),
)


def _write_start(folder: Path) -> None:
    """Tokenizer and config: what a model is before its first step."""
    template = (_HERE / "chat_template.jinja").read_text(encoding="utf-8")
    tokenizer = train_tokenizer(
        mixture.tokenizer_texts(_NUM_TOKENIZER_CONVERSATIONS, _SEED, template), VOCAB_SIZE
    )
    save_tokenizer(tokenizer, folder, template, CONTEXT_LENGTH)
    eos, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    model_config(eos, pad).save_pretrained(folder)
    generation_config(eos, pad).save_pretrained(folder)


def _write_text(plan: StagePlan, file: Path) -> None:
    if plan.stage is Stage.PT:
        mixture.write_jsonl(file, mixture.documents(plan.num_examples, plan.seed))
    else:
        makers = mixture.LAST_PASS if plan.is_last else mixture.CONVERSATIONS
        mixture.write_jsonl(file, mixture.conversations(plan.num_examples, plan.seed, makers))


def _spec(plan: StagePlan, base: Path, text: Path, output: Path) -> TrainSpec:
    return TrainSpec(
        job_id=f"tuneyard-mini-{plan.name}",
        output_dir=str(output),
        model=ModelArguments(
            model_name_or_path=str(base),
            compute_dtype="bfloat16",
            train_from_scratch=plan.stage is Stage.PT,
        ),
        data=DataArguments(train_file=str(text), cutoff_len=1024),
        finetuning=FinetuningArguments(
            stage=plan.stage, finetuning_type=FinetuningType.FULL
        ),
        training=TrainingArguments(
            num_train_epochs=plan.num_epochs,
            per_device_train_batch_size=plan.batch_size,
            learning_rate=plan.learning_rate,
            lr_scheduler_type=plan.lr_scheduler_type,
            warmup_ratio=0.03,
            weight_decay=0.01,
            logging_steps=10,
            save_steps=200,
            save_total_limit=1,
            seed=plan.seed,
        ),
    )  # fmt: skip


def _train(plan: StagePlan, base: Path, work: Path) -> StageRun:
    """Raises subprocess.CalledProcessError when the trainer fails."""
    text, output = work / f"{plan.name}.jsonl", work / plan.name
    _write_text(plan, text)
    spec_file = work / f"{plan.name}.json"
    spec_file.write_bytes(msgspec.json.encode(_spec(plan, base, text, output)))
    log = output / "events.ndjson"
    if not any(isinstance(event, Completed) for event in _events(log)):
        subprocess.run([sys.executable, "-m", "workers.trainer", str(spec_file)], check=True)
    events = _events(log)
    completed = next(event for event in events if isinstance(event, Completed))
    steps = [event for event in events if isinstance(event, Step)]
    started = next(event for event in events if isinstance(event, Started))
    return StageRun(
        name=plan.name,
        stage=str(plan.stage),
        num_examples=started.num_examples,
        num_epochs=plan.num_epochs,
        batch_size=plan.batch_size,
        learning_rate=plan.learning_rate,
        num_steps=completed.step,
        num_tokens=completed.trained_tokens,
        first_loss=steps[0].metrics["train_loss"],
        last_loss=steps[-1].metrics["train_loss"],
        wall_s=completed.at - started.at,
        path=completed.path,
    )


def _events(log: Path) -> list[TrainEvent]:
    if not log.exists():
        return []
    return [msgspec.json.decode(line, type=TrainEvent) for line in log.read_bytes().splitlines()]


def _ship(trained: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for name in _SHIPPED:
        shutil.copyfile(trained / name, output / name)


def build(work: Path, output: Path) -> Report:
    start = work / "start"
    _write_start(start)
    base, runs = start, list[StageRun]()
    for plan in PLANS:
        run = _train(plan, base, work)
        _log.info("%s", json.dumps(asdict(run)))
        runs.append(run)
        base = Path(run.path)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(start / name, base / name)
    _ship(base, output)
    report = examine(output)
    write_card(output / "README.md", runs, report)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the bundled model tuneyard-mini.")
    parser.add_argument("--work", type=Path, default=Path("build/tuneyard-mini"))
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    report = build(arguments.work.resolve(), arguments.output.resolve())
    for question, answer in report.wrong:
        _log.info("wrong (%s): %r, not %r", question.kind, answer, question.expected)
    for kind in report.asked:
        _log.info("%s: %d of %d", kind, report.right[kind], report.asked[kind])
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
