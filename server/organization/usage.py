"""`/v1/organization/usage/...` and `/v1/organization/costs`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Literal

from fastapi import APIRouter, Query

from server.auth import AdminCaller
from server.config import Price
from server.config.prices import price_of
from server.errors import InvalidRequest
from server.organization.buckets import (
    MAX_IDS,
    BucketPage,
    PageToken,
    Seconds,
    Width,
    Window,
    paged,
    window_of,
)
from server.organization.services import OrganizationServices
from server.store import Store
from server.store.usage import TooManyGroupsError, UsageGroup, UsageQuery, UsageSum
from server.wire import ResponseBody

router = APIRouter()
_WIDTHS = {
    "1m": Width(60, 60, 1440),
    "1h": Width(3600, 24, 168),
    "1d": Width(24 * 3600, 7, 31),
}
_COST_WIDTH = Width(24 * 3600, 7, 180)
_MILLION = 1_000_000

ProjectIds = Annotated[list[str], Query(alias="project_ids[]", max_length=MAX_IDS)]
KeyIds = Annotated[list[str], Query(alias="api_key_ids[]", max_length=MAX_IDS)]
ModelIds = Annotated[list[str], Query(alias="models[]", max_length=MAX_IDS)]
Groups = Annotated[list[UsageGroup], Query(alias="group_by[]", max_length=10)]


class CostGroup(StrEnum):
    PROJECT = "project_id"
    KEY = "api_key_id"
    LINE_ITEM = "line_item"


class CompletionsUsage(ResponseBody):
    object: Literal["organization.usage.completions.result"] = (
        "organization.usage.completions.result"
    )
    input_tokens: int
    input_cached_tokens: int
    input_uncached_tokens: int
    output_tokens: int
    num_model_requests: int
    project_id: str | None
    user_id: str | None = None
    api_key_id: str | None
    model: str | None
    batch: bool | None = None
    service_tier: str | None = None


class EmbeddingsUsage(ResponseBody):
    object: Literal["organization.usage.embeddings.result"] = "organization.usage.embeddings.result"
    input_tokens: int
    num_model_requests: int
    project_id: str | None
    user_id: str | None = None
    api_key_id: str | None
    model: str | None


class Amount(ResponseBody):
    value: float
    currency: str


class Cost(ResponseBody):
    object: Literal["organization.costs.result"] = "organization.costs.result"
    amount: Amount
    line_item: str | None
    quantity: float | None = None
    """Tokens, where costs are grouped by line item."""
    project_id: str | None
    api_key_id: str | None


@router.get("/usage/completions", summary="Usage of chat and completions")
async def completions_usage(
    _: AdminCaller,
    services: OrganizationServices,
    start_time: Seconds,
    end_time: Seconds | None = None,
    bucket_width: Literal["1m", "1h", "1d"] = "1d",
    project_ids: ProjectIds = [],  # noqa: B006 as FastAPI declares defaults
    api_key_ids: KeyIds = [],  # noqa: B006
    models: ModelIds = [],  # noqa: B006
    group_by: Groups = [],  # noqa: B006
    limit: int | None = None,
    page: PageToken = None,
) -> BucketPage[CompletionsUsage]:
    """Requests and tokens in minutes, hours or days (UTC), at most a second old."""
    window = window_of(_WIDTHS[bucket_width], start_time, end_time, limit, page)
    sums, end = await _sums(services.store, window, group_by, project_ids, api_key_ids, models)
    return paged(window, sums, end, lambda found: [_completions(s) for s in found if _is_text(s)])


@router.get("/usage/embeddings", summary="Usage of embeddings and scores")
async def embeddings_usage(
    _: AdminCaller,
    services: OrganizationServices,
    start_time: Seconds,
    end_time: Seconds | None = None,
    bucket_width: Literal["1m", "1h", "1d"] = "1d",
    project_ids: ProjectIds = [],  # noqa: B006
    api_key_ids: KeyIds = [],  # noqa: B006
    models: ModelIds = [],  # noqa: B006
    group_by: Groups = [],  # noqa: B006
    limit: int | None = None,
    page: PageToken = None,
) -> BucketPage[EmbeddingsUsage]:
    """Requests and tokens in minutes, hours or days (UTC), at most a second old."""
    window = window_of(_WIDTHS[bucket_width], start_time, end_time, limit, page)
    sums, end = await _sums(services.store, window, group_by, project_ids, api_key_ids, models)
    return paged(
        window, sums, end, lambda found: [_embeddings(s) for s in found if s.embedding_requests]
    )


@router.get("/costs", summary="Costs")
async def costs(
    _: AdminCaller,
    services: OrganizationServices,
    start_time: Seconds,
    end_time: Seconds | None = None,
    bucket_width: Literal["1d"] = "1d",
    project_ids: ProjectIds = [],  # noqa: B006
    api_key_ids: KeyIds = [],  # noqa: B006
    group_by: Annotated[list[CostGroup], Query(alias="group_by[]", max_length=10)] = [],  # noqa: B006
    limit: int | None = None,
    page: PageToken = None,
) -> BucketPage[Cost]:
    """Tokens at the prices of this server's configuration, by the day (UTC). What has no price
    costs nothing."""
    window = window_of(_COST_WIDTH, start_time, end_time, limit, page)
    groups = [UsageGroup(group) for group in group_by if group is not CostGroup.LINE_ITEM]
    by_model = [*groups, UsageGroup.MODEL]
    sums, end = await _sums(services.store, window, by_model, project_ids, api_key_ids, ())
    by_item = CostGroup.LINE_ITEM in group_by
    config = services.config
    return paged(
        window,
        sums,
        end,
        lambda found: _costs(found, config.prices, config.currency, by_item=by_item),
    )


async def _sums(
    store: Store,
    window: Window,
    group_by: Sequence[UsageGroup],
    project_ids: Sequence[str],
    key_ids: Sequence[str],
    models: Sequence[str],
) -> tuple[Sequence[UsageSum], int]:
    """Raises InvalidRequest."""
    query = UsageQuery(
        window.start, window.end, window.width_s, frozenset(group_by), project_ids, key_ids, models
    )
    try:
        return await store.usage.sums(query)
    except TooManyGroupsError:
        raise InvalidRequest(
            "A bucket has too many groups to be shown. Please group by less, or filter.",
            param="group_by",
            code="invalid_value",
        ) from None


def _is_text(total: UsageSum) -> bool:
    return total.requests > total.embedding_requests


def _completions(total: UsageSum) -> CompletionsUsage:
    input_tokens = total.prompt_tokens - total.embedding_tokens
    return CompletionsUsage(
        input_tokens=input_tokens,
        input_cached_tokens=total.cached_tokens,
        input_uncached_tokens=input_tokens - total.cached_tokens,
        output_tokens=total.completion_tokens,
        num_model_requests=total.requests - total.embedding_requests,
        project_id=total.project_id,
        api_key_id=total.key_id,
        model=total.model,
    )


def _embeddings(total: UsageSum) -> EmbeddingsUsage:
    return EmbeddingsUsage(
        input_tokens=total.embedding_tokens,
        num_model_requests=total.embedding_requests,
        project_id=total.project_id,
        api_key_id=total.key_id,
        model=total.model,
    )


def _costs(
    sums: Sequence[UsageSum], prices: Mapping[str, Price], currency: str, *, by_item: bool
) -> list[Cost]:
    totals: dict[tuple[str | None, str | None, str | None], tuple[float, int]] = {}
    for total in sums:
        for item, tokens, amount in _items(total, prices):
            place = (total.project_id, total.key_id, item if by_item else None)
            value, quantity = totals.get(place, (0.0, 0))
            totals[place] = value + amount, quantity + tokens
    return [
        Cost(
            amount=Amount(value=value, currency=currency),
            line_item=item,
            quantity=quantity if by_item else None,
            project_id=project_id,
            api_key_id=key_id,
        )
        for (project_id, key_id, item), (value, quantity) in totals.items()
    ]


def _items(total: UsageSum, prices: Mapping[str, Price]) -> Iterator[tuple[str, int, float]]:
    """Name, tokens and amount of each line of a model's bill."""
    assert total.model is not None
    price = price_of(prices, total.model)
    if price is None:
        return
    cached = price.input if price.cached_input is None else price.cached_input
    for name, tokens, of_million in (
        ("input", total.prompt_tokens - total.cached_tokens, price.input),
        ("cached input", total.cached_tokens, cached),
        ("output", total.completion_tokens, price.output),
    ):
        if tokens:
            yield f"{total.model}, {name}", tokens, tokens * of_million / _MILLION
