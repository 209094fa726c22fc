"""A project's requests and tokens a minute on a model: on every gateway, and after a restart."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from server.auth import KEY_TTL_S, Principal
from server.config import Limits
from server.generation.rate_sharing import INTERVAL_S
from server.generation.rates import RateMeter
from server.organization.schemas import NO_LIMIT
from server.store import open_store
from server.store.records import Project, Usage
from server.store.usage import RecentUse
from server.usage import Tally, minute_of
from tests.gateway.conftest import MODEL, Gateway, start_gateway, wait_for
from tests.organization.conftest import Service, chat

GUARD_S = 100 * max(KEY_TTL_S, INTERVAL_S)


def limited(service: Service, **limits: int) -> tuple[str, str]:
    """A new project with limits on `MODEL`, and its key."""
    projects = service.admin().projects
    project = projects.create(name="Limited")
    changed = projects.rate_limits.update_rate_limit(f"rl-{MODEL}", project_id=project.id, **limits)
    assert changed.model == MODEL
    key = projects.service_accounts.create(project.id, name="k").api_key.value
    return project.id, key


def test_limits_are_listed_for_each_model_and_changed(service: Service) -> None:
    project, _ = limited(service, max_requests_per_1_minute=7)
    limits = service.admin().projects.rate_limits
    shown = {limit.model: limit for limit in limits.list_rate_limits(project, limit=1)}
    assert set(shown) == {MODEL, "asleep"}
    assert shown[MODEL].max_requests_per_1_minute == 7
    assert shown[MODEL].max_tokens_per_1_minute == NO_LIMIT
    assert shown["asleep"].max_requests_per_1_minute == NO_LIMIT
    both = limits.update_rate_limit(f"rl-{MODEL}", project_id=project, max_tokens_per_1_minute=900)
    assert (both.max_requests_per_1_minute, both.max_tokens_per_1_minute) == (7, 900)
    free = limits.update_rate_limit(
        f"rl-{MODEL}", project_id=project, max_requests_per_1_minute=NO_LIMIT
    )
    assert (free.max_requests_per_1_minute, free.max_tokens_per_1_minute) == (NO_LIMIT, 900)
    with pytest.raises(openai.BadRequestError) as error:
        limits.update_rate_limit(f"rl-{MODEL}", project_id=project, max_images_per_1_minute=1)
    assert error.value.param == "max_images_per_1_minute"
    with pytest.raises(openai.NotFoundError):
        limits.update_rate_limit("rl-none", project_id=project, max_requests_per_1_minute=1)


def test_requests_beyond_the_limit_are_refused_with_its_headers(service: Service) -> None:
    project, key = limited(service, max_requests_per_1_minute=2)
    first = chat(service.one, key)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert chat(service.one, key).status_code == 200
    refused = chat(service.one, key)
    assert refused.status_code == 429
    assert refused.json()["error"]["type"] == "requests"
    assert f"project and model '{MODEL}'" in refused.json()["error"]["message"]
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    service.admin().projects.rate_limits.update_rate_limit(
        f"rl-{MODEL}", project_id=project, max_requests_per_1_minute=NO_LIMIT
    )
    free = chat(service.one, key)
    assert free.status_code == 200
    assert "x-ratelimit-limit-requests" not in free.headers


def test_tokens_used_are_taken_from_the_limit(service: Service) -> None:
    _, key = limited(service, max_tokens_per_1_minute=30)
    answer = chat(service.one, key, "many words")
    assert answer.json()["usage"]["total_tokens"] > 30
    refused = chat(service.one, key)
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "tokens")


def debt_s(gateway: Gateway, key: str) -> int:
    """How long the gateway would have its caller wait; 0 if it serves him."""
    return int(chat(gateway, key).headers.get("retry-after", 0))


def test_what_one_gateway_served_counts_at_the_other(service: Service) -> None:
    """Requests that run at once are all admitted, and leave a debt that no caller can run up at
    the other gateway, who asks one by one."""
    _, key = limited(service, max_tokens_per_1_minute=60)
    chat(service.two, key)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: chat(service.one, key, "slow words"), range(12)))
    served = [answer for answer in answers if answer.status_code == 200]
    used = sum(answer.json()["usage"]["total_tokens"] for answer in served)
    assert used > 6 * 60
    wait_for(lambda: debt_s(service.two, key) > used // 2, GUARD_S)


def test_a_restarted_gateway_goes_on_where_limits_stood(service: Service) -> None:
    project, key = limited(service, max_requests_per_1_minute=60)

    async def serve_elsewhere() -> None:
        store = await open_store(service.one.config.database_url)
        # Of the minute to come, so that it still counts when this test is slow.
        minute = minute_of(time.time()) + 60
        await store.usage.add([Usage(project, "key_of_another", MODEL, minute, 600, 0, 0, 0)])
        await store.close()

    asyncio.run(serve_elsewhere())
    third = start_gateway(service.one.config, service.one.workers, [MODEL, "asleep"])
    try:
        assert debt_s(third, key) > 400
    finally:
        third.stop()


CALLER = Principal("key", Project("proj", "Acme", "acme", 1))


def remaining_after(num_own: int, num_everybodys: int, num_polls: int) -> int:
    """Of 1,000 requests a minute, on a machine that may be slow."""
    while True:
        minute = minute_of(time.time())
        meter = RateMeter(Limits(requests_per_minute=1000))
        for _ in range(num_own):
            meter.admit(CALLER, "base", Tally()).settle()
        headers = meter.admit(CALLER, "base", Tally()).headers
        for _ in range(num_polls):
            meter.learn([RecentUse("proj", "key", "base", minute, num_everybodys, 0)])
        left = int(dict(headers())[b"x-ratelimit-remaining-requests"])
        if minute == minute_of(time.time()):
            return left


def test_a_meter_takes_what_others_served_once() -> None:
    assert 50 <= remaining_after(0, 900, 3) <= 600


def test_a_meter_does_not_take_its_own_again() -> None:
    assert 50 <= remaining_after(900, 900, 3) <= 600


def test_use_of_a_minute_that_is_over_has_partly_come_back() -> None:
    """Two minutes ago is all back, however much it was."""
    meter = RateMeter(Limits(requests_per_minute=1000))
    long_ago = minute_of(time.time()) - 120
    meter.learn([RecentUse("proj", "key", "base", long_ago, 10**6, 0)])
    left = dict(meter.admit(CALLER, "base", Tally()).headers())
    assert int(left[b"x-ratelimit-remaining-requests"]) == 999


def test_a_bucket_that_nobody_uses_is_forgotten() -> None:
    meter = RateMeter(Limits(requests_per_minute=1000))
    for number in range(100):
        caller = Principal(f"key {number}", Project(f"proj {number}", "Acme", "acme", 1))
        meter.admit(caller, "base", Tally()).settle()
    assert meter.is_used
    meter.learn([], now=time.monotonic() + 3600)
    assert not meter.is_used
