"""What files a revision has, asked over each hub's HTTP API.

Sources of the formats: Hugging Face `/api/models/{id}/revision/{rev}?blobs=true` and
`/{id}/resolve/{rev}/{path}` (huggingface.co/docs/hub/api); ModelScope
`/api/v1/models/{id}/repo/files` and `/repo?FilePath=` (as modelscope-hub 0.5.1 calls them);
Modelers `/api/v1/file/{id}` and `/api/v1/file/{id}/{rev}/media/{path}` (as openmind-hub 1.3.0 calls
them).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from typing import Any
from urllib.parse import quote

import httpx

from server.hubs.model import HubError, HubModel, HubUnreachableError, Listing, RemoteFile
from server.hubs.names import Hub
from server.hubs.refusals import check_answer

_MODELSCOPE_LIMIT = 3000
"""ModelScope cuts a listing off there without a word."""
_OTHER_FRAMEWORKS = ("*.h5", "*.msgpack", "*.onnx", "*.onnx_data", "*.ot", "*.tflite", "*.gguf")
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "original/*", "consolidated*")
"""Left out where there are safetensors: the same weights once more."""
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", *_OTHER_FRAMEWORKS)


def list_files(client: httpx.Client, model: HubModel) -> Listing:
    """What is to be fetched of the model. Raises HubError."""
    try:
        listing = _LISTINGS[model.hub](client, model)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise HubUnreachableError(
            f"{model.endpoint} does not answer as a hub: {error!r}"
        ) from error
    wanted = tuple(_wanted(listing.files, has_weights=model.has_weights))
    if not any(file.path == "config.json" for file in wanted):
        raise HubError(f"{model} holds no config.json: it is no model that can be served")
    return Listing(listing.commit, wanted)


def auth_headers(model: HubModel) -> dict[str, str]:
    """Sent to the hub alone: httpx takes them off when an answer leads elsewhere."""
    if model.token is None:
        return {}
    headers = {"Authorization": f"Bearer {model.token}"}
    if model.hub is Hub.MODELSCOPE:  # its older routes know only the session's cookie
        headers["Cookie"] = f"m_session_id={model.token}"
    return headers


def _huggingface(client: httpx.Client, model: HubModel) -> Listing:
    revision = quote(model.revision, safe="")
    url = f"{model.endpoint}/api/models/{model.name}/revision/{revision}"
    answer = _get(client, model, url, {"blobs": "true"})
    commit = str(answer["sha"])
    files = [
        RemoteFile(
            entry["rfilename"],
            int(entry["size"]),
            (entry.get("lfs") or {}).get("sha256") or entry.get("blobId"),
            f"{model.endpoint}/{model.name}/resolve/{commit}/{quote(entry['rfilename'])}",
        )
        for entry in answer["siblings"]
    ]
    return Listing(commit, tuple(files))


def _modelscope(client: httpx.Client, model: HubModel) -> Listing:
    root = f"{model.endpoint}/api/v1/models/{model.name}/repo"
    revision = quote(model.revision, safe="")
    params = {"Revision": model.revision, "Recursive": "True"}
    entries = _get(client, model, f"{root}/files", params)["Data"]["Files"]
    if len(entries) >= _MODELSCOPE_LIMIT:
        raise HubError(f"{model} has more files than ModelScope lists")
    files = [
        RemoteFile(
            entry["Path"],
            int(entry["Size"]),
            entry.get("Sha256") or None,
            f"{root}?Revision={revision}&FilePath={quote(entry['Path'], safe='')}",
        )
        for entry in entries
        if entry["Type"] == "blob"
    ]
    return Listing(_content_name(files), tuple(files))


def _modelers(client: httpx.Client, model: HubModel) -> Listing:
    root = f"{model.endpoint}/api/v1/file/{model.name}"
    revision = quote(model.revision, safe="")
    files: list[RemoteFile] = []
    folders = [""]
    while folders:
        params = {"ref": model.revision, "path": folders.pop()}
        for entry in _get(client, model, root, params)["data"]["tree"]:
            path = str(entry["path"])
            if entry["type"] == "dir":
                folders.append(path)
                continue
            url = f"{root}/{revision}/media/{quote(path)}"
            files.append(RemoteFile(path, int(entry["size"]), entry.get("etag") or None, url))
    return Listing(_content_name(files), tuple(files))


_LISTINGS: dict[Hub, Callable[[httpx.Client, HubModel], Listing]] = {
    Hub.HUGGINGFACE: _huggingface,
    Hub.MODELSCOPE: _modelscope,
    Hub.MODELERS: _modelers,
}


def _get(client: httpx.Client, model: HubModel, url: str, params: dict[str, str]) -> Any:
    """Raises HubError."""
    try:
        response = client.get(url, params=params, headers=auth_headers(model))
    except httpx.HTTPError as error:
        raise HubUnreachableError(f"{model.endpoint} cannot be reached: {error!r}") from error
    check_answer(model, response)
    return response.json()


def _content_name(files: Iterable[RemoteFile]) -> str:
    """Stands for the commit where a hub's listing names none."""
    lines = sorted(f"{file.path} {file.size} {file.digest}" for file in files)
    return hashlib.sha1("\n".join(lines).encode(), usedforsecurity=False).hexdigest()


def _wanted(files: Iterable[RemoteFile], *, has_weights: bool) -> Iterable[RemoteFile]:
    files = list(files)
    unwanted: tuple[str, ...] = (*_OTHER_FRAMEWORKS, ".*")
    if not has_weights:
        unwanted += _WEIGHTS
    elif any(fnmatch(file.path, "*.safetensors") for file in files):
        unwanted += _OTHER_WEIGHTS
    return (f for f in files if not any(fnmatch(f.path, pattern) for pattern in unwanted))
