"""Job requests against a gateway without a supervisor: jobs stay as they were created."""

from __future__ import annotations

import json
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.jobs.conftest import settings_for
from tests.jobs.live import Gateway, running_gateway
from tests.jobs.stories import create, messages, upload


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Generator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("requests"), settings_for(tiny_model)) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def training_file(gateway: Gateway) -> str:
    return upload(gateway.client())


def supervised(**knobs: object) -> dict[str, Any]:
    return {"method": {"type": "supervised", "supervised": {"hyperparameters": knobs}}}


KNOBS = "method.supervised.hyperparameters"
BAD_REQUESTS: list[tuple[dict[str, Any], str, str]] = [
    ({"model": None}, "model", "invalid_type"),
    ({"model": 5}, "model", "invalid_type"),
    ({"model": ""}, "model", "empty_string"),
    ({"training_file": None}, "training_file", "invalid_type"),
    ({"training_file": "file-none"}, "training_file", "invalid_value"),
    ({"training_file": ["file-1"]}, "training_file", "invalid_type"),
    ({"training_file": "../../etc/passwd"}, "training_file", "invalid_value"),
    ({"validation_file": "file-none"}, "validation_file", "invalid_value"),
    ({"validation_file": 3}, "validation_file", "invalid_type"),
    ({"suffix": ""}, "suffix", "empty_string"),
    ({"suffix": "x" * 65}, "suffix", "string_above_max_length"),
    ({"suffix": 1}, "suffix", "invalid_type"),
    ({"seed": -1}, "seed", "integer_below_min_value"),
    ({"seed": 2**31}, "seed", "integer_above_max_value"),
    ({"seed": "1"}, "seed", "invalid_type"),
    ({"seed": 1.5}, "seed", "invalid_type"),
    ({"metadata": []}, "metadata", "invalid_type"),
    ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
    ({"metadata": {"a": "x" * 513}}, "metadata.a", "string_above_max_length"),
    ({"colour": "red"}, "colour", "unknown_parameter"),
    ({"method": "supervised"}, "method", "invalid_type"),
    ({"method": {}}, "method.type", "missing_required_parameter"),
    ({"method": {"type": "magic"}}, "method.type", "invalid_value"),
    ({"method": {"type": "grpo"}}, "method.type", "invalid_value"),
    ({"method": {"type": "reinforcement"}}, "method.type", "unsupported_value"),
    ({"method": {"type": "supervised", "x": 1}}, "method.x", "unknown_parameter"),
    ({"integrations": [{"type": "wandb"}]}, "integrations", "unsupported_parameter"),
    (supervised(n_epochs=0), f"{KNOBS}.n_epochs", "integer_below_min_value"),
    (supervised(n_epochs=51), f"{KNOBS}.n_epochs", "integer_above_max_value"),
    (supervised(batch_size=257), f"{KNOBS}.batch_size", "integer_above_max_value"),
    (
        supervised(learning_rate_multiplier=0),
        f"{KNOBS}.learning_rate_multiplier",
        "decimal_below_min_value",
    ),
    (supervised(lora_rank=0), f"{KNOBS}.lora_rank", "integer_below_min_value"),
    (supervised(lora_rank=65), f"{KNOBS}.lora_rank", "unsupported_value"),
    (supervised(lora_rang=8), f"{KNOBS}.lora_rang", "unknown_parameter"),
    (supervised(finetuning_type="prefix"), f"{KNOBS}.finetuning_type", "invalid_value"),
    (supervised(lora_target="a; rm -rf /"), f"{KNOBS}.lora_target", "invalid_value"),
    (supervised(optim="sgd; import os"), f"{KNOBS}.optim", "invalid_value"),
    (supervised(packing="yes"), f"{KNOBS}.packing", "invalid_type"),
    (supervised(save_total_limit=0), f"{KNOBS}.save_total_limit", "integer_below_min_value"),
    (
        supervised(finetuning_type="full", lora_rank=8),
        f"{KNOBS}.lora_rank",
        "unsupported_parameter",
    ),
    (
        supervised(train_on_prompt=True, mask_history=True),
        f"{KNOBS}.mask_history",
        "unsupported_value",
    ),
    (supervised(eval_steps=5), f"{KNOBS}.eval_steps", "unsupported_parameter"),
    (supervised(max_steps=2**31), f"{KNOBS}.max_steps", "integer_above_max_value"),
    (supervised(cutoff_len=2**70), f"{KNOBS}.cutoff_len", "integer_above_max_value"),
    (supervised(weight_decay="0.1"), f"{KNOBS}.weight_decay", "invalid_type"),
    (supervised(n_epochs=1.5), f"{KNOBS}.n_epochs", "invalid_type"),
    (supervised(n_epochs="Auto"), f"{KNOBS}.n_epochs", "invalid_value"),
    ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", "integer_below_min_value"),
    ({"hyperparameters": {"lora_rank": 8}}, "hyperparameters.lora_rank", "unknown_parameter"),
]


@pytest.mark.parametrize(
    ("change", "param", "code"), BAD_REQUESTS, ids=[f"{p}-{c}" for _, p, c in BAD_REQUESTS]
)
def test_a_wrong_request_is_told_where_and_why(
    gateway: Gateway, training_file: str, change: dict[str, Any], param: str, code: str
) -> None:
    body = {"model": "tiny", "training_file": training_file, **change}
    with gateway.http() as http:
        answer = http.post("/fine_tuning/jobs", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code), error
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("knob", ["n_epochs", "batch_size", "learning_rate_multiplier"])
@pytest.mark.parametrize("value", ["many", True, [], {}])
def test_a_knob_of_another_type_is_refused(
    gateway: Gateway, training_file: str, knob: str, value: object
) -> None:
    body = {"model": "tiny", "training_file": training_file, **supervised(**{knob: value})}
    with gateway.http() as http:
        answer = http.post("/fine_tuning/jobs", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == f"{KNOBS}.{knob}"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b'{"model": NaN}', b"[" * 100_000]
)
def test_a_body_that_is_no_object_is_refused(gateway: Gateway, body: bytes) -> None:
    with gateway.http() as http:
        headers = {"content-type": "application/json"}
        answer = http.post("/fine_tuning/jobs", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_an_unknown_model_is_not_found(gateway: Gateway, training_file: str) -> None:
    for model in ("gpt-5", "ft:tiny:tuneyard::none", "../tiny"):
        with pytest.raises(openai.NotFoundError) as error:
            create(gateway.client(), training_file, model=model)
        assert (error.value.param, error.value.code) == ("model", "model_not_found")


def test_files_of_other_purposes_and_overlaps_are_refused(
    gateway: Gateway, training_file: str
) -> None:
    client = gateway.client()
    other = client.files.create(file=b"{}", purpose="user_data").id
    with pytest.raises(openai.BadRequestError, match="fine-tune") as error:
        create(client, other)
    assert error.value.param == "training_file"
    with pytest.raises(openai.BadRequestError) as error:
        create(client, training_file, validation_file=training_file)
    assert error.value.param == "validation_file"


def test_all_methods_at_once_with_one_selected_are_taken(
    gateway: Gateway, training_file: str
) -> None:
    """As in the SDK's own examples."""
    job = gateway.client().fine_tuning.jobs.create(
        model="tiny",
        training_file=training_file,
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": "auto", "batch_size": 3}},
            "dpo": {"hyperparameters": {"beta": "auto"}},
            "reinforcement": {"grader": {"type": "string_check"}},  # type: ignore[typeddict-item]
        },
        integrations=[],
    )
    assert job.status == "validating_files"
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == ("auto", 3)
    assert job.integrations == []
    assert job.organization_id == "tuneyard"
    assert job.error is None
    assert 0 <= job.seed < 2**31


def test_jobs_and_events_are_paged_and_selected(gateway: Gateway, training_file: str) -> None:
    client = gateway.client()
    tags = {"run": "paging", "odd [key]": "a=b&c"}
    ids = [create(client, training_file, metadata=tags).id for _ in range(5)]
    listed = client.fine_tuning.jobs.list(limit=2, metadata=tags)
    assert listed.has_more
    assert [job.id for job in listed] == ids[::-1]
    assert [j.id for j in client.fine_tuning.jobs.list(metadata={"run": "other"})] == []
    untagged = create(client, training_file).id
    with gateway.http() as http:
        found = http.get("/fine_tuning/jobs", params={"metadata": "null"}).json()["data"]
        assert untagged in [job["id"] for job in found]
        assert not set(ids) & {job["id"] for job in found}
        for path in ("", f"/{ids[0]}/events", f"/{ids[0]}/checkpoints"):
            answer = http.get(f"/fine_tuning/jobs{path}", params={"after": "nothing"})
            assert answer.status_code in (400, 404)
            assert answer.json()["error"]["message"]
            answer = http.get(f"/fine_tuning/jobs{path}", params={"limit": "0"})
            assert answer.json()["error"]["param"] == "limit"
    assert messages(client, ids[0]) == [f"Created fine-tuning job: {ids[0]}"]


def test_events_are_fed_until_the_job_has_ended(gateway: Gateway, training_file: str) -> None:
    client = gateway.client()
    job_id = create(client, training_file).id
    events: list[dict[str, Any]] = []
    path = f"/fine_tuning/jobs/{job_id}/events"
    with gateway.http() as http, http.stream("GET", path, params={"stream": "true"}) as feed:
        assert feed.headers["content-type"].startswith("text/event-stream")
        data = (line[6:] for line in feed.iter_lines() if line.startswith("data: "))
        events.append(json.loads(next(data)))
        client.fine_tuning.jobs.cancel(job_id)
        *rest, done = data
    assert done == "[DONE]"
    events += [json.loads(each) for each in rest]
    listed = client.fine_tuning.jobs.list_events(job_id, limit=100).data
    assert [event["id"] for event in events] == [event.id for event in listed[::-1]]
    assert len(events) == 2
    with gateway.http() as http:
        for query, param in (("stream=true&after=x", "after"), ("stream=perhaps", "stream")):
            assert http.get(f"{path}?{query}").json()["error"]["param"] == param
        assert http.get("/fine_tuning/jobs/ftjob-x/events?stream=true").status_code == 404


def test_one_idempotency_key_is_one_job_however_often_it_comes(
    gateway: Gateway, training_file: str
) -> None:
    body = {"model": "tiny", "training_file": training_file, "metadata": {"idempotent": "1"}}

    def post(seed: int | None = None) -> httpx.Response:
        with gateway.http() as http:
            wanted = body if seed is None else {**body, "seed": seed}
            headers = {"Idempotency-Key": "same"}
            return http.post("/fine_tuning/jobs", json=wanted, headers=headers)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: post(), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    found = list(gateway.client().fine_tuning.jobs.list(metadata={"idempotent": "1"}))
    assert [job.id for job in found] == [answers[0].json()["id"]]
    conflict = post(seed=5)
    assert conflict.status_code == 409
    assert conflict.json()["error"]["code"] == "idempotency_key_reused"


def test_a_waiting_job_can_be_cancelled_but_not_paused(
    gateway: Gateway, training_file: str
) -> None:
    client = gateway.client()
    job = create(client, training_file)
    for verb in (client.fine_tuning.jobs.pause, client.fine_tuning.jobs.resume):
        with pytest.raises(openai.BadRequestError) as error:
            verb(job.id)
        assert error.value.code == "invalid_job_status"
    cancelled = client.fine_tuning.jobs.cancel(job.id)
    assert cancelled.status == "cancelled"
    assert cancelled.finished_at is not None
    assert client.fine_tuning.jobs.cancel(job.id) == cancelled
    assert messages(client, job.id)[-1] == "Fine-tuning job cancelled"
    assert not list((gateway.data / "files" / "jobs" / job.id).iterdir())


@pytest.mark.parametrize("job_id", ["ftjob-none", "..%2f", "%00", "x" * 3000])
def test_an_unknown_job_is_not_found(gateway: Gateway, job_id: str) -> None:
    with gateway.http() as http:
        for method, path in (
            ("GET", ""),
            ("POST", "/cancel"),
            ("POST", "/pause"),
            ("POST", "/resume"),
            ("GET", "/events"),
            ("GET", "/checkpoints"),
        ):
            answer = http.request(method, f"/fine_tuning/jobs/{job_id}{path}")
            assert answer.status_code == 404, answer.text


async def test_the_async_client_and_raw_responses_work_too(
    gateway: Gateway, training_file: str
) -> None:
    async with openai.AsyncOpenAI(
        api_key=gateway.client().api_key, base_url=f"{gateway.url}/v1"
    ) as client:
        raw = await client.fine_tuning.jobs.with_raw_response.create(
            model="tiny", training_file=training_file
        )
        assert raw.headers["x-request-id"].startswith("req_")
        job = raw.parse()
        assert (await client.fine_tuning.jobs.retrieve(job.id)).id == job.id
        assert (await client.fine_tuning.jobs.cancel(job.id)).status == "cancelled"
