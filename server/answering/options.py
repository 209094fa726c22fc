"""How a conversation is rendered: what was asked for, over the model's defaults."""

from __future__ import annotations

import msgspec

from server.generation.defaults import ModelDefaults
from templates.conversation import RenderOptions
from templates.effort import EFFORTS_OFF


def render_options(asked: RenderOptions, defaults: ModelDefaults) -> RenderOptions:
    """A default of thinking holds only where nothing was asked about it."""
    thinking, effort = asked.enable_thinking, asked.reasoning_effort
    if thinking is None and effort is None:
        thinking, effort = defaults.enable_thinking, defaults.reasoning_effort
    budget = asked.thinking_budget
    if budget is None and thinking is not False and effort not in EFFORTS_OFF:
        budget = defaults.thinking_budget
    if (thinking, effort, budget) == (
        asked.enable_thinking,
        asked.reasoning_effort,
        asked.thinking_budget,
    ):
        return asked
    return msgspec.structs.replace(
        asked, enable_thinking=thinking, reasoning_effort=effort, thinking_budget=budget
    )
