"""From a model entry to the model on its hub: the hub's address, the token and the cache, from the
entry or from the variables that the hubs' own libraries read.

| | address | token | cache |
|---|---|---|---|
| Hugging Face | HF_ENDPOINT | HF_TOKEN, or `hf auth login` | HF_HUB_CACHE, HF_HOME |
| ModelScope | MODELSCOPE_ENDPOINT, MODELSCOPE_DOMAIN | MODELSCOPE_API_TOKEN | MODELSCOPE_CACHE |
| Modelers | OPENMIND_HUB_ENDPOINT | OM_HUB_TOKEN | XDG_CACHE_HOME |

HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE forbid asking any hub.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from server.config import EngineKind, ModelEntry
from server.hubs.model import HubModel
from server.hubs.names import Hub

_TRUE = frozenset({"1", "on", "yes", "true"})
_REVISIONS = {Hub.HUGGINGFACE: "main", Hub.MODELSCOPE: "master", Hub.MODELERS: "main"}
_TOKENS = {
    Hub.HUGGINGFACE: "HF_TOKEN",
    Hub.MODELSCOPE: "MODELSCOPE_API_TOKEN",
    Hub.MODELERS: "OM_HUB_TOKEN",
}


def hub_model(entry: ModelEntry, environ: Mapping[str, str] = os.environ) -> HubModel | None:
    """None where the entry's path is a local directory."""
    if entry.hub is None:
        return None
    hub = entry.hub
    return HubModel(
        hub=hub,
        name=entry.path,
        revision=entry.revision or _REVISIONS[hub],
        endpoint=_endpoint(hub, environ).rstrip("/"),
        cache_dir=Path(entry.cache_dir or _cache_dir(hub, environ)).expanduser(),
        token=entry.hub_token or environ.get(_TOKENS[hub]) or _logged_in(hub, environ),
        has_weights=entry.engine is not EngineKind.ATTACHED,
        offline=_is_true(environ, "HF_HUB_OFFLINE") or _is_true(environ, "TRANSFORMERS_OFFLINE"),
    )


def _endpoint(hub: Hub, environ: Mapping[str, str]) -> str:
    match hub:
        case Hub.HUGGINGFACE:
            return environ.get("HF_ENDPOINT") or "https://huggingface.co"
        case Hub.MODELSCOPE:
            named = environ.get("MODELSCOPE_ENDPOINT") or environ.get("MODELSCOPE_DOMAIN")
            named = named or "https://modelscope.cn"
            return named if "://" in named else f"https://{named}"
        case Hub.MODELERS:
            return environ.get("OPENMIND_HUB_ENDPOINT") or "https://modelers.cn"


def _cache_dir(hub: Hub, environ: Mapping[str, str]) -> Path:
    home = Path(environ.get("XDG_CACHE_HOME") or "~/.cache")
    match hub:
        case Hub.HUGGINGFACE:
            named = environ.get("HF_HUB_CACHE")
            return Path(named) if named else _huggingface_home(environ) / "hub"
        case Hub.MODELSCOPE:
            return Path(environ.get("MODELSCOPE_CACHE") or home / "modelscope") / "hub"
        case Hub.MODELERS:
            return home / "openmind" / "hub"


def _huggingface_home(environ: Mapping[str, str]) -> Path:
    home = Path(environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(environ.get("HF_HOME") or home / "huggingface")


def _logged_in(hub: Hub, environ: Mapping[str, str]) -> str | None:
    if hub is not Hub.HUGGINGFACE:
        return None
    file = Path(environ.get("HF_TOKEN_PATH") or _huggingface_home(environ) / "token")
    try:
        return file.expanduser().read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _is_true(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "").lower() in _TRUE
