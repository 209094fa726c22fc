"""Training data to ids and labels: our trainer's reading of a file beside LLaMA-Factory's own
preprocessing of the same rows, each in one process.

    python -m tests.bench encode [--rounds N]

An alpaca set (instruction, input, output) and a sharegpt set (several turns, a system message for
some) of varied lengths, given to us as OpenAI's `messages` and to LLaMA-Factory in their own form.
Both read the file, render template `qwen3_nothink` and tokenise with the bundled tokenizer; ids and
labels are checked to be equal, row by row. Rounds take turns. LLaMA-Factory's conversion of the
JSON to Arrow is cached after its first round, which is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from server.config import BUNDLED_MODEL
from tests.bench.environments import LLAMAFACTORY, ROOT
from tests.bench.findings import Finding, record
from workers.contract.parameters import DataArguments, ModelArguments
from workers.contract.training import TrainSpec
from workers.trainer.dataset import EncodedExamples, Window, load_file
from workers.trainer.stages.sft import Supervised

NUM_ROWS = {"alpaca": 4000, "sharegpt": 2000}
CUTOFF_LEN = 8192
"""Longer than any row: where one is cut, the two have rules of their own."""
TARGET = "at least 1.5"
_WORDS = [
    word
    for file in ("README.md", "openapi.yaml")
    for word in (ROOT / file).read_text().split()
    if "<" not in word
]
"""Without what could spell a control token: there the two differ, and ours keeps it text."""
Row = dict[str, Any]


def alpaca_row(rng: random.Random) -> tuple[Row, Row]:
    """As LLaMA-Factory takes it, and as we do."""
    instruction, answer = _prose(rng, 12), _prose(rng, 60)
    given = _prose(rng, 30) if rng.random() < 0.4 else ""
    question = f"{instruction}\n{given}" if given else instruction
    theirs = {"instruction": instruction, "input": given, "output": answer}
    return theirs, {"messages": [_says("user", question), _says("assistant", answer)]}


def sharegpt_row(rng: random.Random) -> tuple[Row, Row]:
    system = _prose(rng, 20) if rng.random() < 0.3 else ""
    turns = [(_prose(rng, 15), _prose(rng, 50)) for _ in range(rng.randint(1, 6))]
    conversations: list[Row] = []
    messages = [_says("system", system)] if system else []
    for question, answer in turns:
        conversations += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        messages += [_says("user", question), _says("assistant", answer)]
    return {"conversations": conversations, "system": system}, {"messages": messages}


def _prose(rng: random.Random, num_words: int) -> str:
    """Around `num_words`, now and then many times as many."""
    count = max(1, int(num_words * rng.lognormvariate(-0.3, 0.7)))
    return " ".join(rng.choice(_WORDS) for _ in range(min(count, 4 * num_words)))


def _says(role: str, content: str) -> Row:
    return {"role": role, "content": content}


def write_sets(folder: Path) -> None:
    rng = random.Random(0)
    makers = {"alpaca": alpaca_row, "sharegpt": sharegpt_row}
    for name, maker in makers.items():
        theirs, ours = zip(*(maker(rng) for _ in range(NUM_ROWS[name])), strict=True)
        (folder / f"{name}.json").write_text(json.dumps(theirs))
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, ours)))
    columns = {"messages": "conversations", "system": "system"}
    info = {
        "alpaca": {"file_name": "alpaca.json"},
        "sharegpt": {
            "file_name": "sharegpt.json",
            "formatting": "sharegpt",
            "columns": columns,
        },
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))


class LlamaFactory:
    """Its preprocessing in a process of its own, asked for one data set at a time."""

    def __init__(self, folder: Path) -> None:
        script = Path(__file__).with_name("encode_llamafactory.py")
        command = [LLAMAFACTORY.program("python"), str(script), str(folder), str(BUNDLED_MODEL)]
        self._log = folder / "llamafactory.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **LLAMAFACTORY.variables, "HF_HOME": str(folder / "home")},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
            )

    def encode(self, name: str) -> tuple[float, float]:
        """Seconds of wall and CPU time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{name}\n")
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"LLaMA-Factory ended:\n{self._log.read_text()[-3000:]}")
        seconds = json.loads(answer)
        return seconds["wall_s"], seconds["cpu_s"]

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def encode_ours(path: Path, spec: TrainSpec) -> tuple[float, float, EncodedExamples]:
    stage = Supervised.open(spec)
    stage.encode([], CUTOFF_LEN)  # loads the tokenizer
    wall, cpu = time.perf_counter(), time.process_time()
    window = Window(CUTOFF_LEN, None)
    loaded = load_file(path, stage, window, is_validation=False, between_lines=lambda: None)
    return time.perf_counter() - wall, time.process_time() - cpu, loaded.examples


def check_equal(ours: EncodedExamples, file: Path) -> None:
    ids, labels = json.loads(file.read_text())
    if len(ours) != len(ids):
        raise SystemExit(f"{len(ours)} examples here, {len(ids)} there")
    for index, theirs in enumerate(zip(ids, labels, strict=True)):
        if tuple(part.tolist() for part in ours.sequences(index)[0]) != theirs:
            raise SystemExit(f"example {index} of {file} differs")


def measure(name: str, folder: Path, peer: LlamaFactory, num_rounds: int) -> None:
    spec = TrainSpec(
        job_id="bench",
        output_dir=str(folder),
        model=ModelArguments(model_name_or_path=str(BUNDLED_MODEL), template="qwen3_nothink"),
        data=DataArguments(train_file=str(folder / f"{name}.jsonl")),
    )
    rounds: list[tuple[tuple[float, float], tuple[float, float]]] = []
    num_tokens = 0
    for number in range(num_rounds + 1):
        *ours, examples = encode_ours(folder / f"{name}.jsonl", spec)
        theirs = peer.encode(name)
        num_tokens = sum(examples.lengths)
        if number:
            rounds.append(((ours[0], ours[1]), theirs))
            sys.stderr.write(f"  {name}: {ours[0]:.2f} s, LLaMA-Factory {theirs[0]:.2f} s\n")
        else:
            check_equal(examples, folder / f"{name}.theirs.json")
    for index, unit in enumerate(("tokens/s", "tokens per CPU-second")):
        record(
            Finding(
                what=f"encoding an {name} set, {unit}"
                if name == "alpaca"
                else f"encoding a {name} set, {unit}",
                ours=statistics.median(num_tokens / ours[index] for ours, _ in rounds),
                peer=f"get_dataset, {LLAMAFACTORY.version}",
                theirs=statistics.median(num_tokens / theirs[index] for _, theirs in rounds),
                ratio=statistics.median(theirs[index] / ours[index] for ours, theirs in rounds),
                target=TARGET,
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sets(folder)
        peer = LlamaFactory(folder)
        try:
            for data_set in NUM_ROWS:
                measure(data_set, folder, peer, options.rounds)
        finally:
            peer.end()


if __name__ == "__main__":
    main()
