"""`tuneyard batch`: a file of requests, run by a running service."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from server.cli.options import ConfigPath, refuse
from server.cli.service_client import ApiKey, BaseUrl, ServiceClient

_FAILED = 1
_ASK_INTERVAL_S = 1.0
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


def batch(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="JSONL of requests.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: FILE.output.jsonl.")
    ] = None,
    config: ConfigPath = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Run a file of requests as a batch, follow it, and write what was answered.

    Lines that failed are written beside the output, as FILE.errors.jsonl. Ctrl-C stops following, \
not the batch. The status is 0 if every line was answered.

    Example: tuneyard batch requests.jsonl -o answers.jsonl
    """
    endpoint = _endpoint_of(file)
    with ServiceClient(config, base_url, api_key) as client:
        with file.open("rb") as content:
            files = {"file": (f"{file.stem}.jsonl", content)}
            file_id = client.post("/files", data={"purpose": "batch"}, files=files)["id"]
        body = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h"}
        ended = _follow(client, client.post("/batches", body)["id"])
        _fetch(client, ended["output_file_id"], output or file.with_suffix(".output.jsonl"))
        _fetch(client, ended["error_file_id"], file.with_suffix(".errors.jsonl"))
    for error in (ended["errors"] or {}).get("data", ()):
        typer.echo(f"{file}:{error.get('line') or 1}: {error['message']}", err=True)
    if ended["status"] != "completed" or ended["request_counts"]["failed"]:
        sys.exit(_FAILED)


def _endpoint_of(file: Path) -> str:
    """As the first line says."""
    with file.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"")
    try:
        url = json.loads(first)["url"]
    except (ValueError, KeyError, TypeError):
        refuse(f"{file}: its first line is not a request with a 'url'.")
    return str(url)


def _follow(client: ServiceClient, batch_id: str) -> dict[str, Any]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(batch_id, total=None)
        while True:
            seen: dict[str, Any] = client.get(f"/batches/{batch_id}")
            counts = seen["request_counts"]
            progress.update(
                bar,
                description=f"{batch_id} {seen['status']}",
                total=counts["total"] or None,
                completed=counts["completed"] + counts["failed"],
            )
            if seen["status"] in _ENDED:
                return seen
            time.sleep(_ASK_INTERVAL_S)


def _fetch(client: ServiceClient, file_id: str | None, path: Path) -> None:
    if file_id is not None:
        client.download(f"/files/{file_id}/content", path)
        typer.echo(path)
