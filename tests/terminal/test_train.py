"""`tuneyard train`: LLaMA-Factory's files, from the terminal to an answer of what was trained."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from openai import omit
from openai.types.fine_tuning import FineTuningJob
from pyarrow import parquet

from server.cli.data_sets import DataSetError, find_data_sets
from server.cli.joined import Upload, are_alike, upload_of
from server.datasets.mixing import Mixing, MixStrategy
from server.llamafactory.translation import stages
from tests.jobs.live import GUARD_S, KEY, Service, running_gateway, running_supervisor
from tests.jobs.stories import lines, rows, wait_for
from tests.llamafactory.examples import read_examples
from tests.terminal.test_commands import tuneyard
from tests.trainer.test_pairs import pair
from workers.contract.parameters import Stage

CONCAT = Mixing()
SMALL = ("cutoff_len=48", "num_train_epochs=2", "learning_rate=5e-3", "warmup_ratio=0", "seed=1")
PAIRS = [pair(f"What swims? {n}", "A blue whale.", "I will not say.") for n in range(12)]
INFO: dict[str, Any] = {
    "identity": {"file_name": "identity.jsonl"},
    "alpaca_en_demo": {"file_name": "demo.jsonl"},
    "dpo_en_demo": {"file_name": "pairs.jsonl"},
    "c4_demo": {"file_name": "texts.jsonl"},
    "far": {"hf_hub_url": "somebody/far"},
    "gone": {"file_name": "gone.json"},
    "shaped": {"file_name": "demo.jsonl", "columns": {"prompt": "question"}},
}
RUNS = {
    "sft": ("train_lora/qwen3_lora_sft.yaml", ("max_samples=5", "eval_dataset=data/demo.jsonl")),
    "full": ("train_full/qwen3_full_sft.yaml", ("learning_rate=1e-3",)),
    "dpo": ("train_lora/qwen3_lora_dpo.yaml", ("pref_ftx=0.5",)),
    "pt": ("train_lora/qwen3_lora_pretrain.yaml", ()),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the example files and their data sets, small ones of the same names."""
    folder = tmp_path_factory.mktemp("factory")
    data = folder / "data"
    data.mkdir()
    (data / "dataset_info.json").write_text(json.dumps(INFO))
    (data / "identity.jsonl").write_bytes(lines(rows(6)))
    (data / "demo.jsonl").write_bytes(lines(rows(8, offset=100)).rstrip(b"\n"))
    (data / "pairs.jsonl").write_bytes(lines(PAIRS))
    (data / "texts.jsonl").write_bytes(lines([{"text": "Blue whales swim."}] * 12))
    for example, _ in RUNS.values():
        path = folder / example
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(read_examples()[example]))
    return folder


@pytest.fixture(scope="module")
def service(folder: Path, tiny_model: Path) -> Generator[Service]:
    """Which serves the tiny model under the examples' model's name."""
    entry = {"id": "Qwen/Qwen3-4B-Instruct-2507", "path": str(tiny_model), "device": "cpu"}
    settings: dict[str, object] = {"models": [entry], "training": {"device": "cpu"}}
    with running_gateway(folder, settings) as gateway, running_supervisor(folder) as supervisor:
        yield Service(gateway, supervisor, folder)


@pytest.fixture(scope="module")
def trained(service: Service) -> subprocess.CompletedProcess[str]:
    """The sft example, as the terminal showed it."""
    example, changes = RUNS["sft"]
    return tuneyard(service, "train", example, *SMALL, *changes, "--suffix", "sft")


@pytest.mark.parametrize("name", [n for n in RUNS if n != "pt" or "pt" in stages()])
def test_an_example_trains_and_its_model_chats(
    service: Service, trained: subprocess.CompletedProcess[str], name: str
) -> None:
    example, changes = RUNS[name]
    done = trained
    if name != "sft":
        done = tuneyard(service, "train", example, *SMALL, *changes, "--suffix", name)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "do_train: a job trains in any case" in done.stdout
    told = done.stdout.splitlines()
    assert told[-3].startswith("loss ")
    model = told[-2]
    assert f":{name}:" in model
    assert told[-1] == f"  tuneyard chat {model}"
    answer = tuneyard(service, "chat", model, "-p", "Who are you?", "--max-tokens", "4")
    assert answer.returncode == 0, answer.stderr
    job = job_of(service, model)
    assert job.seed == 1
    assert job.method is not None
    settled = next(iter(job.method.to_dict(exclude_none=True)[job.method.type].values()))  # type: ignore[index,union-attr]
    assert isinstance(settled, dict)
    assert (settled["gradient_accumulation_steps"], settled["bf16"]) == (
        read_examples()[example]["gradient_accumulation_steps"],
        True,
    )


def job_of(service: Service, model: str) -> FineTuningJob:
    jobs = service.gateway.client(strict=False).fine_tuning.jobs.list(limit=100)
    return next(job for job in jobs if job.fine_tuned_model == model)


def test_training_goes_on_from_an_adapter(
    service: Service, trained: subprocess.CompletedProcess[str]
) -> None:
    adapter = trained.stdout.splitlines()[-2]
    config = {**read_examples()[RUNS["sft"][0]], "adapter_name_or_path": adapter, "cutoff_len": 48}
    config["dataset"] = job_of(service, adapter).training_file
    client = service.gateway.client(strict=False)
    job = client.fine_tuning.jobs.create(
        model=omit, training_file=omit, extra_body={"llamafactory": config}
    )
    assert job.model == adapter
    client.fine_tuning.jobs.cancel(job.id)


def test_several_data_sets_are_one_file_of_the_first_rows_of_each(
    service: Service, trained: subprocess.CompletedProcess[str]
) -> None:
    client = service.gateway.client(strict=False)
    job = job_of(service, trained.stdout.splitlines()[-2])
    taken = [*rows(5), *rows(5, offset=100)]
    assert client.files.content(job.training_file).read() == lines(taken)
    assert job.validation_file is not None
    assert client.files.content(job.validation_file).read() == lines(rows(5, offset=100))


def test_what_cannot_be_is_told(service: Service) -> None:
    example = RUNS["sft"][0]
    for arguments, told in (
        (("use_galore=true", "lora_rnk=3"), ("Did you mean 'lora_rank'?", "'llamafactory.use_ga")),
        (
            ("dataset=identity", "eval_dataset=shaped"),
            ("demo.jsonl: Row 1: the column 'question'",),
        ),
        (("model_name_or_path=Qwen/other",), ("one of this server's",)),
    ):
        done = tuneyard(service, "train", example, *SMALL, *arguments)
        assert done.returncode in (1, 2), (arguments, done.stdout)
        assert all(said in done.stderr for said in told), (arguments, done.stderr)


def test_ctrl_c_leaves_the_job_to_go_on(service: Service) -> None:
    command = [sys.executable, "-m", "server.cli", "train", RUNS["sft"][0], *SMALL]
    service.supervisor.send_signal(signal.SIGSTOP)
    try:
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            cwd=service.folder,
            env={**os.environ, "API_KEY": KEY, "COLUMNS": "200", "PYTHONPATH": os.getcwd()},
        ) as process:
            assert process.stdout is not None
            lines_read = iter(process.stdout.readline, "")
            seen = next(line for line in lines_read if "Created fine-tuning job" in line)
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=GUARD_S)
    finally:
        service.supervisor.send_signal(signal.SIGCONT)
    job_id = seen.split()[-1]
    assert process.returncode == 130
    assert f"{job_id} goes on." in rest
    assert f"tuneyard jobs follow {job_id}" in rest
    client = service.gateway.client(strict=False)
    assert wait_for(client, job_id).status == "succeeded"


def run_alone(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Without a service, or a key."""
    return subprocess.run(
        [sys.executable, "-m", "server.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=GUARD_S,
        check=False,
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", "PYTHONPATH": os.getcwd()},
    )


def test_a_check_shows_each_key_without_a_service(folder: Path, tmp_path: Path) -> None:
    done = run_alone(folder, "train", RUNS["sft"][0], "--check", "use_kt=true")
    assert done.returncode == 1, done.stderr
    shown = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    assert ["lora_rank", "honoured", "lora_rank"] in shown
    assert ["do_train", "dropped", "a job trains in any case"] in shown
    assert [row[1] for row in shown if row[:1] == ["use_kt"]] == ["REFUSED"]
    assert run_alone(folder, "train", RUNS["sft"][0], "--check").returncode == 0
    model = tmp_path / "qwen3.yaml"
    model.write_text(yaml.safe_dump(read_examples()["inference/qwen3.yaml"]))
    done = run_alone(folder, "train", str(model), "--check")
    assert done.returncode == 2
    assert f"tuneyard serve --config {model}" in done.stderr


def test_data_sets_are_found_by_name_and_by_path(folder: Path) -> None:
    data = folder / "data"
    [found] = find_data_sets(["shaped"], str(data), None)
    assert (found.path, found.layout) == (data / "demo.jsonl", {"columns": {"prompt": "question"}})
    [found] = find_data_sets(["identity"], "data", folder)
    assert found.path == data / "identity.jsonl"
    [found] = find_data_sets([str(data / "demo.jsonl")], None, None)
    assert found.layout == {}
    mapping = {"mine": {"file_name": str(data / "demo.jsonl"), "formatting": "alpaca"}}
    [found] = find_data_sets(["mine"], mapping, None)
    assert found.layout == {"formatting": "alpaca"}
    for name, said in (
        ("identify", "Did you mean identity?"),
        ("far", "far is not on this machine"),
        ("gone", "there is no file 'gone.json'"),
    ):
        with pytest.raises(DataSetError, match=said):
            find_data_sets([name], str(data), None)
    for info in ({"mine": 3}, {"mine": {"file_name": "x", "subset": "y"}}, "REMOTE:some/where"):
        with pytest.raises(DataSetError):
            find_data_sets(["mine"], info, None)


def read_rows(upload: Upload) -> list[Any]:
    with upload.content as content:
        return [json.loads(line) for line in content.read().splitlines()]


def test_data_sets_of_several_formats_become_one_of_the_form_that_is_trained_on(
    tmp_path: Path,
) -> None:
    alpaca = {"instruction": "Hi", "output": "Hello"}
    shared = [{"from": "human", "value": "Bye"}, {"from": "gpt", "value": "See you"}]
    info = {
        "a": {"file_name": "a.json", "columns": {"prompt": "q", "response": "r"}},
        "b": {"file_name": "b.jsonl", "formatting": "sharegpt"},
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    (tmp_path / "a.json").write_text(json.dumps([{"q": "Hi", "r": "Hello"}]))
    (tmp_path / "b.jsonl").write_text(json.dumps({"conversations": shared}) + "\n")
    (tmp_path / "c.json").write_text(json.dumps([alpaca, alpaca]))
    found = find_data_sets(["a", "b", "c.json"], str(tmp_path), None)
    assert not are_alike(found, Stage.SFT)
    upload = upload_of(found, None, CONCAT, Stage.SFT)
    turns = [
        [(message["role"], message["content"]) for message in row["messages"]]
        for row in read_rows(upload)
    ]
    hello = [("user", "Hi"), ("assistant", "Hello")]
    assert turns == [hello, [("user", "Bye"), ("assistant", "See you")], hello, hello]
    assert upload.layout == {}
    (tmp_path / "c.json").write_text(json.dumps([alpaca, {"instruction": 3, "output": "x"}]))
    with pytest.raises(DataSetError, match=r"c\.json: Row 2: "):
        upload_of(found, None, CONCAT, Stage.SFT)


def test_data_sets_that_are_alike_are_joined_as_they_are(tmp_path: Path) -> None:
    for name in "ab":
        rows = [{"instruction": f"{name}{n}", "output": "x"} for n in range(3)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    found = find_data_sets(["a.json", "b.json"], str(tmp_path), None)
    assert are_alike(found, Stage.SFT)
    in_turn = Mixing(MixStrategy.INTERLEAVE_UNDER)
    asked = [row["instruction"] for row in read_rows(upload_of(found, 2, in_turn))]
    assert asked == ["a0", "b0", "a1", "b1"]
    with pytest.raises(DataSetError, match="must have 2 values"):
        upload_of(found, 2, Mixing(MixStrategy.INTERLEAVE_OVER, [1.0]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("mix_strategy=shuffle", "mix_strategy must be one of concat, interleave_under"),
        ("interleave_probs=a,b", "interleave_probs must be numbers"),
        ("interleave_probs=0.5,0.5", "interleave_probs is for mix_strategy interleave_under"),
    ],
)
def test_a_mixing_that_means_nothing_is_refused(service: Service, change: str, said: str) -> None:
    done = tuneyard(
        service, "train", RUNS["sft"][0], *SMALL, "dataset=identity,alpaca_en_demo", change
    )
    assert done.returncode == 2
    assert said in done.stderr


def test_files_of_several_containers_are_joined_as_the_service_reads_them(tmp_path: Path) -> None:
    array = [{"text": "é"}, {"text": "b"}, {"text": "c"}]
    (tmp_path / "a.json").write_text(json.dumps(array, indent=1))
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "d"}\r\n\n{"text": "e"}')
    (tmp_path / "c.csv").write_text("text\nf\n")
    (tmp_path / "d.txt").write_text("g\nh\ni\n")
    (tmp_path / "e.json").write_text('{"text": "j"}\n{"text": "k"}\n')
    parquet.write_table(pa.table({"text": ["l", "m", "n"]}), tmp_path / "f.parquet")
    names = ["a.json", "b.jsonl", "c.csv", "d.txt", "e.json", "f.parquet"]
    with upload_of(find_data_sets(names, str(tmp_path), None), 2, CONCAT).content as content:
        joined = [json.loads(line)["text"] for line in content.read().splitlines()]
    assert joined == ["é", "b", "d", "e", "f", "g", "h", "j", "k", "l", "m"]
    [table] = find_data_sets(["c.csv"], str(tmp_path), None)
    alone = upload_of([table], None, CONCAT)
    with alone.content as content:
        assert (alone.filename, content.read()) == ("c.csv", b"text\nf\n")
    (tmp_path / "bad.json").write_text('[{"text": oops}]')
    with pytest.raises(DataSetError, match=r"bad.json: Row 1 of the JSON array is not valid JSON"):
        upload_of(find_data_sets(["c.csv", "bad.json"], str(tmp_path), None), None, CONCAT)
