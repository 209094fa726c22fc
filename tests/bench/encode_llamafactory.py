"""LLaMA-Factory's own preprocessing, in its own environment: the other side of `bench_encode`.

Takes a folder with `dataset_info.json` and a model directory. For each data set named on standard
input it runs `get_dataset` anew and answers with one line of JSON: seconds of wall and CPU time.
The ids and labels are left in `<name>.theirs.json`.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer


def cpu_s() -> float:
    """Of this process and of those it has ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(kind)[:2]) for kind in kinds)


def encode(name: str, folder: Path, model: str) -> dict[str, float]:
    model_args, data_args, training_args, _, _ = get_train_args(
        {
            "stage": "sft",
            "do_train": True,
            "model_name_or_path": model,
            "template": "qwen3_nothink",
            "dataset_dir": str(folder),
            "dataset": name,
            "cutoff_len": 8192,
            "preprocessing_num_workers": 1,
            "overwrite_cache": True,
            "output_dir": str(folder / "out"),
            "report_to": "none",
            "use_cpu": True,
        }
    )
    loaded = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data_args)
    wall, cpu = time.perf_counter(), cpu_s()
    rows = get_dataset(template, model_args, data_args, training_args, stage="sft", **loaded)
    wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
    rows = rows["train_dataset"]
    result = folder / f"{name}.theirs.json"
    if not result.exists():
        result.write_text(json.dumps([rows["input_ids"][:], rows["labels"][:]]))
    return {"wall_s": wall, "cpu_s": cpu}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # its loggers write to standard output
    folder, model = Path(sys.argv[1]), sys.argv[2]
    for line in sys.stdin:
        answers.write(json.dumps(encode(line.strip(), folder, model)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
