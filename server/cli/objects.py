"""`tuneyard jobs|files|models`: what a running service has, listed, followed and removed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from server.cli.listing import minute, show
from server.cli.options import ConfigPath, refuse
from server.cli.service_client import ApiKey, BaseUrl, ServiceClient

_STATUS = 1
_JOBS = "fine_tuning/jobs"
_ENDED_WELL = "succeeded"
_BARS = "▁▂▃▄▅▆▇█"
_SPARKLINE_WIDTH = 40
_BAR_WIDTH = 30
_Limit = Annotated[int, typer.Option(min=1, help="How many to show, the newest first.")]
_JobId = Annotated[str, typer.Argument(metavar="JOB")]

jobs = typer.Typer(name="jobs", no_args_is_help=True, help="Fine-tuning jobs of a service.")
files = typer.Typer(name="files", no_args_is_help=True, help="Files of a service.")
models = typer.Typer(name="models", no_args_is_help=True, help="Models of a service.")


@jobs.command("list")
def list_jobs(
    limit: _Limit = 20,
    config: ConfigPath = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Show the newest jobs. Example: tuneyard jobs list --limit 5"""
    with ServiceClient(config, base_url, api_key) as client:
        rows = (
            (job["id"], job["status"], job["model"], job["fine_tuned_model"], _at(job))
            for job in client.pages("/fine_tuning/jobs", limit)
        )
        show(("job", "state", "model", "result", "since"), rows)


@jobs.command()
def follow(
    job_id: _JobId,
    config: ConfigPath = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Print a job's events as they happen, with its loss, until it has ended.

    The status is 0 if it succeeded. Example: tuneyard jobs follow ftjob-...
    """
    with ServiceClient(config, base_url, api_key) as client:
        follow_job(client, job_id)


@jobs.command()
def cancel(
    job_id: _JobId,
    config: ConfigPath = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """End a job; training stops within a step. Example: tuneyard jobs cancel ftjob-..."""
    with ServiceClient(config, base_url, api_key) as client:
        job = client.post(_path(_JOBS, job_id, "/cancel"))
        typer.echo(f"{job['id']} {job['status']}")


@files.command("list")
def list_files(
    limit: _Limit = 20,
    config: ConfigPath = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Show the newest files. Example: tuneyard files list"""
    with ServiceClient(config, base_url, api_key) as client:
        rows = (
            (file["id"], file["filename"], file["purpose"], f"{file['bytes']:,}", _at(file))
            for file in client.pages("/files", limit)
        )
        show(("file", "name", "purpose", "bytes", "since"), rows)


@files.command()
def upload(
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    purpose: Annotated[str, typer.Option(help="What it is for.")] = "fine-tune",
    config: ConfigPath = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Upload a file and print its id. Example: tuneyard files upload examples.jsonl"""
    with ServiceClient(config, base_url, api_key) as client, path.open("rb") as content:
        sent = {"file": (path.name, content)}
        typer.echo(client.post("/files", data={"purpose": purpose}, files=sent)["id"])


@files.command("delete")
def delete_file(
    file_id: Annotated[str, typer.Argument(metavar="FILE")],
    config: ConfigPath = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Delete a file. Example: tuneyard files delete file-..."""
    with ServiceClient(config, base_url, api_key) as client:
        gone = client.delete(_path("files", file_id))
        typer.echo(f"{gone['id']} deleted")


@models.command("list")
def list_models(
    config: ConfigPath = None, base_url: BaseUrl = None, api_key: ApiKey = None
) -> None:
    """Show the models. Example: tuneyard models list"""
    with ServiceClient(config, base_url, api_key) as client:
        rows = (
            (
                model["id"],
                model["owned_by"],
                model.get("points_to") or model.get("root"),
                _at(model, "created"),
            )
            for model in client.get("/models")["data"]
        )
        show(("model", "owned by", "base or model", "since"), rows)


@models.command()
def alias(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    config: ConfigPath = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Let the project call a model by a name of its own, from now on.

    `models delete NAME` takes the name away again. \
Example: tuneyard models alias gpt-4o-mini ft:...
    """
    with ServiceClient(config, base_url, api_key) as client:
        made = client.post(_path("models", name), {"points_to": model})
        typer.echo(f"{made['id']} is {made['points_to']}")


@models.command("delete")
def delete_model(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    config: ConfigPath = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Delete a fine-tuned model, or an alias. Example: tuneyard models delete ft:..."""
    with ServiceClient(config, base_url, api_key) as client:
        gone = client.delete(_path("models", model))
        typer.echo(f"{gone['id']} deleted")


def follow_job(client: ServiceClient, job_id: str) -> str:
    """The id of the model it made. A job that ended otherwise ends the command."""
    path = _path(_JOBS, job_id)
    console = Console(highlight=False, soft_wrap=True)
    losses: list[float] = []
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        for event in client.stream("GET", f"{path}/events?stream=true"):
            data = event.get("data") or {}
            if event["type"] == "metrics" and "train_loss" in data:
                losses.append(data["train_loss"])
                live.update(_progress(data, losses))
            else:
                console.print(f"{_clock(event['created_at'])} {event['message']}", markup=False)
    job = client.get(path)
    if losses:
        console.print(f"loss {sparkline(losses)} {losses[0]:.2f} to {losses[-1]:.2f}")
    if job["status"] != _ENDED_WELL:
        refuse(f"{job_id} {job['status']}" + _reason(job), _STATUS)
    return job["fine_tuned_model"]


def sparkline(values: Sequence[float], width: int = _SPARKLINE_WIDTH) -> str:
    """A curve of at most `width` characters, each the mean of its share of the values."""
    size = max(1, -(-len(values) // width))
    chunks = [values[at : at + size] for at in range(0, len(values), size)]
    means = [sum(chunk) / len(chunk) for chunk in chunks]
    low, high = min(means), max(means)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((mean - low) * scale)] for mean in means)


def _path(kind: str, object_id: str, action: str = "") -> str:
    return f"/{kind}/{quote(object_id, safe='')}{action}"


def _progress(data: dict[str, Any], losses: Sequence[float]) -> Table:
    """A bar where the end is known, and the curve so far."""
    shown = Table.grid(padding=(0, 1))
    told = Text(f"loss {losses[-1]:.3f} {sparkline(losses)}")
    if "total_steps" not in data:
        shown.add_row(told)
        return shown
    step, steps = data["step"], data["total_steps"]
    bar = ProgressBar(total=steps, completed=step, width=_BAR_WIDTH)
    shown.add_row(bar, f"step {step}/{steps}", told)
    return shown


def _reason(job: dict[str, Any]) -> str:
    error = job.get("error") or {}
    return f": {error['message']}" if error.get("message") else ""


def _at(record: dict[str, Any], field: str = "created_at") -> str:
    return minute(record[field])


def _clock(at: int) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S")
