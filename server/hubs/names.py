"""The hubs that models may come from."""

from __future__ import annotations

import re
from enum import StrEnum

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class Hub(StrEnum):
    HUGGINGFACE = "huggingface"
    MODELSCOPE = "modelscope"
    MODELERS = "modelers"

    @property
    def full_name(self) -> str:
        return _TITLES[self]


_TITLES = {
    Hub.HUGGINGFACE: "Hugging Face",
    Hub.MODELSCOPE: "ModelScope",
    Hub.MODELERS: "Modelers",
}


def is_model_name(text: str) -> bool:
    """Whether it could be a hub's `owner/name`, or the bare name of an old one of Hugging Face."""
    return _NAME.fullmatch(text) is not None and ".." not in text
