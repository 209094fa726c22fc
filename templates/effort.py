"""How much a model is asked to think: `enable_thinking`, `reasoning_effort` and `thinking_budget`.

A family has effort levels of its own (gpt-oss writes the level into its system message), or it
thinks or does not. For the latter an effort is thinking on or off, and `low` is thinking held to
`LOW_EFFORT_TOKENS`. A budget is honoured by every family whose thinking words are known: the
gateway ends the thinking where the budget is spent.
"""

from __future__ import annotations

from templates.conversation import RenderOptions
from templates.format import FormatError, ThinkingBudget

LOW_EFFORT = "low"
LOW_EFFORT_TOKENS = 1024
EFFORTS = {
    "none": False,
    "minimal": False,
    LOW_EFFORT: True,
    "medium": True,
    "high": True,
    "xhigh": True,
    "max": True,
}
"""Whether a family that thinks or does not thinks at this effort."""

EFFORTS_OFF = frozenset(effort for effort, thinks in EFFORTS.items() if not thinks)


def wants_thinking(options: RenderOptions) -> bool | None:
    """Whether thinking is asked for, by switch or effort; None leaves it to the model. Raises
    FormatError where the two contradict each other."""
    enabled, effort = options.enable_thinking, options.reasoning_effort
    if effort is None:
        return enabled
    wanted = EFFORTS.get(effort)
    if wanted is None:
        raise FormatError(f"There is no reasoning_effort '{effort}'.", "reasoning_effort")
    if enabled is not None and enabled is not wanted:
        raise FormatError(
            "enable_thinking and reasoning_effort contradict each other.", "reasoning_effort"
        )
    return wanted


def thinking_budget(
    options: RenderOptions, ending: str | None, *, own_levels: bool
) -> ThinkingBudget | None:
    """The budget in force, if any. `ending` are the words that end a thought, None where the format
    has no thinking; `own_levels` where an effort is the model's own matter. Raises FormatError."""
    asked = options.thinking_budget
    if asked is None:
        limited = options.reasoning_effort == LOW_EFFORT and not own_levels
        return ThinkingBudget(LOW_EFFORT_TOKENS, ending) if limited and ending else None
    if ending is None:
        raise FormatError("This model's chat format has no thinking.", "thinking_budget")
    if wants_thinking(options) is False:
        raise FormatError("There is no thinking to limit: it is off.", "thinking_budget")
    return ThinkingBudget(asked, ending)
