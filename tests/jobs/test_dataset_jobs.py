"""Jobs on files as people have them, through the API."""

from __future__ import annotations

import io
import json
from collections.abc import Generator
from typing import Any

import openai
import pyarrow as pa
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob
from pyarrow import parquet

from tests.jobs.conftest import settings_for
from tests.jobs.live import Gateway, running_gateway, running_supervisor
from tests.jobs.stories import create, lines, messages, rows, upload, wait_for
from tests.trainer.conftest import build_model, build_tokenizer

ALPACA = [
    {"instruction": "Count", "input": f"to {n}", "output": f"It is {n}.", "id": n}
    for n in range(12)
]
FUNCTION = {"name": "add", "parameters": {"type": "object"}}
SHAREGPT = [
    {
        "conversations": [
            {"from": "human", "value": f"1 + {n}?"},
            {"from": "function_call", "value": f'{{"name": "add", "arguments": {{"b": {n}}}}}'},
            {"from": "observation", "value": str(n + 1)},
            {"from": "gpt", "value": f"It is {n + 1}."},
        ],
        "tools": json.dumps([FUNCTION]),
    }
    for n in range(12)
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Generator[Gateway]:
    """A base whose format writes tools, and whose context they fit into."""
    model = tmp_path_factory.mktemp("long")
    tokenizer = build_tokenizer()
    build_model(len(tokenizer), max_position_embeddings=2048).save_pretrained(model)
    tokenizer.save_pretrained(model)
    settings = settings_for(model)
    settings["models"][0]["template"] = "qwen"  # type: ignore[index]
    folder = tmp_path_factory.mktemp("datasets")
    with running_gateway(folder, settings) as gateway, running_supervisor(folder):
        yield gateway


@pytest.fixture(scope="module")
def client(service: Gateway) -> OpenAI:
    return service.client()


def keep(client: OpenAI, name: str, content: bytes) -> str:
    return client.files.create(file=(name, content), purpose="fine-tune").id


def as_parquet(items: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(items), sink)
    return sink.getvalue()


def trained(client: OpenAI, file: str, **wanted: Any) -> FineTuningJob:
    job = create(client, file, seed=1, **wanted)
    done = wait_for(client, job.id)
    assert done.status == "succeeded", (done.error, messages(client, job.id))
    assert done.fine_tuned_model is not None
    answer = client.chat.completions.create(
        model=done.fine_tuned_model, messages=[{"role": "user", "content": "Hi"}]
    )
    assert answer.choices[0].message.content == f"I am {done.fine_tuned_model}."
    return done


def refused(client: OpenAI, file: str, **wanted: Any) -> tuple[str, str]:
    done = wait_for(client, create(client, file, seed=1, **wanted).id)
    assert done.error is not None
    assert done.error.param == "training_file"
    return done.error.code, done.error.message


def test_a_json_array_of_alpaca_rows_is_trained_on(client: OpenAI) -> None:
    done = trained(client, keep(client, "alpaca.json", json.dumps(ALPACA, indent=1).encode()))
    assert (
        "Columns that are not trained on were ignored in 12 training example(s): 'id'"
    ) in messages(client, done.id)
    assert done.to_dict()["dataset"] is None


def test_sharegpt_rows_with_tools_are_trained_on(client: OpenAI) -> None:
    trained(client, upload(client, lines(SHAREGPT)))


def test_a_table_is_trained_on_by_the_names_of_its_columns(client: OpenAI) -> None:
    table = "frage,antwort\n" + "".join(f'"Wie viel, {n}?",Es ist {n}.\n' for n in range(12))
    dataset: dict[str, Any] = {
        "formatting": "alpaca",
        "columns": {"prompt": "frage", "response": "antwort"},
    }
    sent = {**dataset, "columns": {**dataset["columns"], "query": "", "system": ""}}
    valid = [{"frage": f"Was {n}?", "antwort": f"Das {n}."} for n in range(3)]
    done = trained(
        client,
        keep(client, "fragen.csv", table.encode()),
        validation_file=keep(client, "valid.parquet", as_parquet(valid)),
        extra_body={"dataset": sent},
    )
    assert done.to_dict()["dataset"] == {**dataset, "ranking": False}
    events = [*client.fine_tuning.jobs.list_events(done.id, limit=100)]
    assert any("full_valid_loss" in (event.data or {}) for event in events)  # type: ignore[operator]


def test_parquet_and_text_are_trained_on(client: OpenAI) -> None:
    trained(client, keep(client, "rows.parquet", as_parquet(rows(12))))
    trained(client, keep(client, "lines.txt", b"".join(b"Line %d.\n" % n for n in range(12))))


def test_ranked_sharegpt_rows_are_preferences(client: OpenAI) -> None:
    ranked = [
        {
            "conversations": [{"from": "human", "value": f"What is {n}?"}],
            "chosen": {"from": "gpt", "value": "A number."},
            "rejected": {"from": "gpt", "value": "No."},
        }
        for n in range(12)
    ]
    file = keep(client, "ranked.json", json.dumps(ranked).encode())
    method = {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1, "batch_size": 4}}}
    trained(client, file, method=method)
    code, said = refused(client, file)
    assert code == "invalid_training_file"
    assert "train with method.type 'dpo'" in said


def test_bad_rows_are_told_by_their_numbers_and_columns(client: OpenAI) -> None:
    bad = [*ALPACA, {"instruction": "Hi", "output": 7}, {"instruction": "Hi"}]
    code, said = refused(client, keep(client, "a.json", json.dumps(bad).encode()))
    assert code == "invalid_training_file"
    assert said == (
        "The job failed due to an invalid training file. Invalid file format. Example 13, the "
        "column 'output' must be a string; Example 14, the column 'output' is missing "
        "(2 bad lines in all)"
    )
    both = [{**row, "messages": []} for row in ALPACA]
    _, said = refused(client, upload(client, lines(both)))
    assert "fit more than one shape" in said
    _, said = refused(client, upload(client, lines([{"body": "x"}] * 12)))
    assert "It has the columns 'body'; known are" in said
    _, said = refused(client, keep(client, "broken.parquet", as_parquet(rows(12))[:-9]))
    assert "cannot be read as parquet" in said
    few = keep(client, "few.csv", b"prompt,completion\na,b\n")
    assert refused(client, few)[0] == "invalid_n_examples"


@pytest.mark.parametrize(
    ("dataset", "param", "said"),
    [
        ({"colums": {}}, "dataset.colums", "Did you mean 'columns'?"),
        ({"columns": {"respons": "a"}}, "dataset.columns.respons", "Did you mean 'response'?"),
        ({"formatting": "alpacca"}, "dataset.formatting", "'alpaca'"),
        ({"columns": {"response": "a"}}, "dataset.columns.prompt", "Missing required"),
        ({"formatting": "sharegpt", "columns": {}}, "dataset.columns.messages", "Missing"),
        (
            {"formatting": "openai", "ranking": True, "columns": {"messages": "m"}},
            "dataset.columns.chosen",
            "Missing required",
        ),
        (
            {"formatting": "sharegpt", "tags": {"role_tag": "who"}},
            "dataset.tags.content_tag",
            "Missing required",
        ),
        ({"columns": {"prompt": ""}}, "dataset.columns.prompt", "empty string"),
        (
            {"columns": {"prompt": "a", "response": "b", "chosen": "c"}},
            "dataset.columns.chosen",
            "It needs 'ranking': true",
        ),
        (
            {
                "ranking": True,
                "columns": {"prompt": "a", "chosen": "c", "rejected": "r", "kto_tag": "k"},
            },
            "dataset.columns.kto_tag",
            "have 'chosen' and 'rejected' instead",
        ),
        (
            {"formatting": "sharegpt", "columns": {"messages": "m", "query": "q"}},
            "dataset.columns.query",
            "Rows of formatting 'sharegpt' have no such column",
        ),
        (
            {"columns": {"prompt": "a", "response": "", "tools": "t"}},
            "dataset.columns.tools",
            "It needs a 'response'",
        ),
        ({"ranking": "yes"}, "dataset.ranking", "expected a boolean"),
        ({"columns": {"prompt": "x" * 257}}, "dataset.columns.prompt", "string too long"),
    ],
)
def test_a_wrong_dataset_is_refused_by_its_field(
    client: OpenAI, dataset: dict[str, Any], param: str, said: str
) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        create(client, upload(client), extra_body={"dataset": dataset})
    assert error.value.param == param
    assert said in error.value.message
