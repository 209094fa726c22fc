"""What the operator's models cost, for `/v1/organization/costs`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from server.config.section import Section

_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Price(Section):
    """Of a million tokens, in the service's `currency`."""

    input: _Amount
    cached_input: _Amount | None = None
    """Of input that the prefix cache had; None: the same as the rest."""
    output: _Amount = 0.0


def price_of(prices: Mapping[str, Price], model: str) -> Price | None:
    """Of the model, or of the base of a fine-tune that has none of its own."""
    own = prices.get(model)
    if own is not None or not model.startswith("ft:"):
        return own
    return next((prices[base] for base in prices if model.startswith(f"ft:{base}:")), None)
