"""Every method of the official `openai` package that asks a server, found by walking its client."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import openai
from openai._resource import SyncAPIResource

NO_REQUEST = frozenset({"with_raw_response", "with_streaming_response"})


def methods() -> dict[str, Any]:
    """By dotted path, such as `chat.completions.create`."""
    client = openai.OpenAI(api_key="none", admin_api_key="none")
    return dict(_walk(client, ""))


def _walk(resource: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, member in sorted(inspect.getmembers_static(type(resource))):
        if name.startswith("_") or name in NO_REQUEST:
            continue
        if isinstance(member, cached_property):
            child = getattr(resource, name)
            if isinstance(child, SyncAPIResource):
                yield from _walk(child, f"{path}{name}.")
        elif inspect.isfunction(member) and path:
            yield f"{path}{name}", member


def placeholders(method: Any) -> dict[str, Any]:
    """Arguments that a method can send, and that mean nothing."""
    return {
        name: _placeholder(str(parameter.annotation))
        for name, parameter in list(inspect.signature(method).parameters.items())[1:]
        if parameter.default is parameter.empty or name in _ANY_OF
    }


_ANY_OF = frozenset(
    {"data", "expression", "external_id", "kms_arn", "name", "prompt", "role_arn", "run_at"}
    | {"audio_sample", "consent", "file_id", "path", "target", "timezone", "type"}
)
"""Without which, in one choice or another, some methods send nothing."""


def _placeholder(annotation: str) -> Any:
    if "FileTypes" in annotation or annotation.startswith("VideoInput"):
        return ("none.txt", b"none")
    if annotation.startswith(("Iterable", "Sequence", "List", "SequenceNotStr")):
        return ["none"]
    if annotation in ("int", "float"):
        return 1
    return True if annotation == "bool" else "none"
