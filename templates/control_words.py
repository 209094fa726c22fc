"""Which of a vocabulary's added tokens act as control, told from their texts alone."""

from __future__ import annotations

import re

_ORDINARY_ADDED_TOKEN = re.compile(
    r"[\s\u2581]*|</?(?:table|caption|thead|tbody|tfoot|tr|th|td|h[1-6]|blockquote|ul|ol|li|em"
    r"|strong|b|i|u|s|p|br|a|code|pre|sub|sup|span|div)>"
)


def acts_as_control(content: str, special: bool, unknown: str | None) -> bool:
    """Every added token does, special or not, but for those that are part of ordinary writing: runs
    of white space (GPT-NeoX, Phi, Gemma), the HTML tags that Gemma's vocabulary lists, and the
    token for what the vocabulary lacks (`unknown`)."""
    return content != unknown and (special or not _ORDINARY_ADDED_TOKEN.fullmatch(content))
