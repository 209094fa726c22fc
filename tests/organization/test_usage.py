"""Usage and costs: what was asked for adds up, in buckets, and survives `kill -9`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from server.config.prices import Price, price_of
from server.store import Store, open_store
from server.store.records import Usage
from server.store.usage import UsageQuery
from server.usage import FLUSH_INTERVAL_S
from tests.gateway.conftest import (
    ALIAS,
    DEADLINE_S,
    MODEL,
    REPLIES,
    put_engine,
    start_worker,
    wait_for,
)
from tests.jobs.live import Gateway as Live
from tests.jobs.live import running_gateway
from tests.organization.conftest import PRICES, Service, chat

DAY_S = 24 * 3600
DAY = 20_000 * DAY_S
"""A midnight of UTC, long ago."""
TUNED = f"ft:{MODEL}:acme::abcd1234"


@pytest.fixture(scope="module")
def project(service: Service) -> str:
    """With use of two keys and models in three days: minute, requests, input, output, cached."""
    project_id: str = service.admin().projects.create(name="Used").id

    def row(key: str, model: str, minute: int, amounts: tuple[int, ...], **more: int) -> Usage:
        return Usage(project_id, key, model, minute, *amounts, **more)

    async def write() -> None:
        store = await open_store(service.one.config.database_url)
        await store.usage.add(
            [
                row("key_a", MODEL, DAY, (1, 100, 10, 40)),
                row("key_a", MODEL, DAY + 60, (2, 200, 20, 0)),
                row("key_b", MODEL, DAY + 3600, (3, 300, 30, 0)),
                row("key_b", TUNED, DAY + DAY_S, (4, 1_000_000, 500_000, 0)),
                row(
                    "key_b",
                    "asleep",
                    DAY + 2 * DAY_S,
                    (6, 60, 5, 0),
                    embedding_requests=5,
                    embedding_tokens=50,
                ),
            ]
        )
        await store.close()

    asyncio.run(write())
    return project_id


def totals(bucket: Any) -> list[tuple[int, int, int, int]]:
    return [
        (r.num_model_requests, r.input_tokens, r.output_tokens, r.input_cached_tokens)
        for r in bucket.results
    ]


def test_usage_is_summed_by_day_hour_and_minute(service: Service, project: str) -> None:
    usage = service.admin().usage
    between = {"start_time": DAY + 5, "end_time": DAY + 3 * DAY_S, "project_ids": [project]}
    days = usage.completions(**between)
    assert [b.start_time for b in days.data] == [DAY, DAY + DAY_S, DAY + 2 * DAY_S]
    assert [b.end_time - b.start_time for b in days.data] == [DAY_S] * 3
    assert [totals(bucket) for bucket in days.data] == [
        [(6, 600, 60, 40)],
        [(4, 1_000_000, 500_000, 0)],
        [(1, 10, 5, 0)],
    ]
    assert (days.has_more, days.next_page) == (False, None)
    assert days.data[0].results[0].input_uncached_tokens == 560
    hours = usage.completions(
        start_time=DAY, end_time=DAY + 7200, bucket_width="1h", project_ids=[project]
    )
    assert [totals(bucket) for bucket in hours.data] == [[(3, 300, 30, 40)], [(3, 300, 30, 0)]]
    minutes = usage.completions(
        start_time=DAY, end_time=DAY + 180, bucket_width="1m", project_ids=[project]
    )
    assert [totals(b) for b in minutes.data] == [[(1, 100, 10, 40)], [(2, 200, 20, 0)], []]
    embedded = usage.embeddings(**between)
    assert [[(r.num_model_requests, r.input_tokens) for r in b.results] for b in embedded.data] == [
        [],
        [],
        [(5, 50)],
    ]


def test_usage_is_split_and_filtered(service: Service, project: str) -> None:
    usage = service.admin().usage
    day = {"start_time": DAY, "end_time": DAY + DAY_S, "project_ids": [project]}
    [split] = usage.completions(**day, group_by=["api_key_id", "model", "project_id"]).data
    found = [(r.project_id, r.api_key_id, r.model, r.num_model_requests) for r in split.results]
    assert found == [(project, "key_a", MODEL, 3), (project, "key_b", MODEL, 3)]
    [whole] = usage.completions(**day).data
    assert (whole.results[0].model, whole.results[0].api_key_id) == (None, None)
    [of_key] = usage.completions(**day, api_key_ids=["key_b"]).data
    assert totals(of_key) == [(3, 300, 30, 0)]
    [of_model] = usage.completions(**day, models=["asleep"]).data
    assert of_model.results == []


def test_usage_comes_in_pages(service: Service, project: str) -> None:
    usage = service.admin().usage
    query = {
        "start_time": DAY,
        "end_time": DAY + 3 * DAY_S,
        "project_ids": [project],
        "limit": 2,
    }
    first = usage.completions(**query)
    assert (len(first.data), first.has_more) == (2, True)
    second = usage.completions(**query, page=first.next_page)
    assert [b.start_time for b in second.data] == [DAY + 2 * DAY_S]
    assert (second.has_more, second.next_page) == (False, None)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({}, "start_time"),
        ({"start_time": "x"}, "start_time"),
        ({"start_time": DAY, "end_time": DAY}, "end_time"),
        ({"start_time": DAY, "limit": 32}, "limit"),
        ({"start_time": DAY, "bucket_width": "2d"}, "bucket_width"),
        ({"start_time": DAY, "group_by[]": "user_id"}, "group_by[]"),
        ({"start_time": DAY, "page": "page_1"}, "page"),
        ({"start_time": DAY, "page": "page_x"}, "page"),
        ({"start_time": DAY, "page": f"page_{DAY - DAY_S}"}, "page"),
    ],
)
def test_a_query_that_cannot_be_answered_names_why(
    service: Service, query: dict[str, Any], param: str
) -> None:
    answer = service.call("GET", "/v1/organization/usage/completions", params=query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_costs_are_tokens_at_the_operator_s_prices(service: Service, project: str) -> None:
    usage = service.admin().usage
    query = {"start_time": DAY, "end_time": DAY + 3 * DAY_S, "project_ids": [project]}
    days = usage.costs(**query)
    values = [[r.amount.value for r in bucket.results] for bucket in days.data]
    assert values == [[pytest.approx((560 * 2 + 40 * 0.5 + 60 * 8) / 1e6)], [6.0], []]
    assert days.data[1].results[0].amount.currency == "usd"
    lines = usage.costs(**query, group_by=["line_item", "api_key_id"]).data[1].results
    assert [(r.line_item, r.amount.value, r.quantity, r.api_key_id) for r in lines] == [
        (f"{TUNED}, input", 2.0, 1_000_000, "key_b"),
        (f"{TUNED}, output", 4.0, 500_000, "key_b"),
    ]


def test_a_fine_tune_costs_what_its_base_does_unless_it_has_a_price() -> None:
    own = Price(input=1.0)
    prices = {**PRICES, TUNED: own}
    assert price_of(prices, TUNED) is own
    assert price_of(prices, f"{TUNED}x:ckpt-step-3") is PRICES[MODEL]
    assert price_of(prices, "another") is None


def test_a_request_is_in_the_usage_within_seconds(service: Service) -> None:
    admin = service.admin()
    project = admin.projects.create(name="Live")
    made = admin.projects.service_accounts.create(project.id, name="k")
    used = chat(service.two, made.api_key.value).json()["usage"]

    def found() -> list[Any]:
        query = {"start_time": int(time.time()) - 3600, "project_ids": [project.id]}
        page = admin.usage.completions(**query, group_by=["api_key_id"])
        return [result for bucket in page.data for result in bucket.results]

    wait_for(lambda: found() != [], 200 * FLUSH_INTERVAL_S)
    [result] = found()
    assert (result.api_key_id, result.num_model_requests) == (made.api_key.id, 1)
    assert result.input_tokens == used["prompt_tokens"]
    assert result.output_tokens == used["completion_tokens"]
    [key] = admin.projects.api_keys.list(project.id).data
    assert abs(key.last_used_at - time.time()) < 3600


def test_use_of_an_alias_is_its_model_s(service: Service) -> None:
    admin = service.admin()
    project = admin.projects.create(name="Alias")
    key = admin.projects.service_accounts.create(project.id, name="k").api_key.value
    asked = {"model": ALIAS, "max_tokens": 3}
    for path, body in (
        ("chat/completions", {**asked, "messages": [{"role": "user", "content": "say hello"}]}),
        ("completions", {**asked, "prompt": "say hello"}),
        ("responses", {"model": ALIAS, "input": "say hello"}),
    ):
        answer = service.call("POST", f"/v1/{path}", key, json=body)
        assert (answer.status_code, answer.json()["model"]) == (200, ALIAS)
    accountant = service.one.app.services.accountant
    wait_for(lambda: accountant.num_unwritten == 0, 200 * FLUSH_INTERVAL_S)
    query = {"start_time": int(time.time()) - 3600, "project_ids": [project.id]}
    page = admin.usage.completions(**query, group_by=["model"])
    results = [result for bucket in page.data for result in bucket.results]
    assert sum(result.num_model_requests for result in results) == 3
    assert {result.model for result in results} == {MODEL}


def test_requests_that_were_refused_are_no_usage(service: Service) -> None:
    admin = service.admin()
    project = admin.projects.create(name="Refused")
    key = admin.projects.service_accounts.create(project.id, name="k").api_key.value
    admin.projects.rate_limits.update_rate_limit(
        f"rl-{MODEL}", project_id=project.id, max_requests_per_1_minute=1
    )
    statuses = [chat(service.one, key).status_code for _ in range(5)]
    assert statuses.count(429) >= 3

    def num_requests() -> int:
        query = {"start_time": int(time.time()) - 3600, "project_ids": [project.id]}
        page = admin.usage.completions(**query)
        return sum(r.num_model_requests for b in page.data for r in b.results)

    wait_for(lambda: num_requests() > 0, 200 * FLUSH_INTERVAL_S)
    wait_for(lambda: service.one.app.services.accountant.num_unwritten == 0)
    assert num_requests() == statuses.count(200)


def test_usage_that_was_written_survives_kill_9(tmp_path: Path) -> None:
    """What the gateway had not written is lost, and nothing is counted twice."""
    worker = start_worker(tmp_path, "engine", REPLIES)
    entry = {"id": MODEL, "path": "/nowhere", "engine": "scripted", "template": "qwen3"}
    settings: dict[str, object] = {"models": [entry]}
    url = f"sqlite+aiosqlite:///{tmp_path / 'data' / 'tuneyard.db'}"

    def ask(gateway: Live, times: int) -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "say hello"}]}
        with gateway.http() as http:
            for _ in range(times):
                wait_for(lambda: http.post("/chat/completions", json=body).status_code == 200)

    try:
        with running_gateway(tmp_path, settings) as gateway:
            asyncio.run(put_engine(url, worker))
            ask(gateway, 5)
            wait_for(lambda: asyncio.run(count(url)) >= 5)
            ask(gateway, 4)
            gateway.process.kill()
            gateway.process.wait(DEADLINE_S)
        left = asyncio.run(count(url))
        assert 5 <= left <= 9
        with running_gateway(tmp_path, settings) as gateway:
            ask(gateway, 3)
            wait_for(lambda: asyncio.run(count(url)) >= left + 3)
            assert asyncio.run(count(url)) == left + 3
    finally:
        worker.stop()


async def count(url: str) -> int:
    store: Store = await open_store(url)
    query = UsageQuery(0, 2**40, 60, frozenset())
    sums, _ = await store.usage.sums(query)
    await store.close()
    return sum(total.requests for total in sums)
