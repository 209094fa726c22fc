"""`tuneyard train`: a LLaMA-Factory config as a job of a running service."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from server.cli.data_sets import DataSet, DataSetError, find_data_sets
from server.cli.joined import Upload, are_alike, upload_of
from server.cli.listing import show
from server.cli.objects import follow_job
from server.cli.options import ConfigPath, refuse
from server.cli.service_client import ApiKey, BaseUrl, ServiceClient
from server.config.factory_file import is_model_file
from server.datasets.mixing import Mixing, MixStrategy
from server.llamafactory.translation import State, Translation, translate
from workers.contract.parameters import Stage

_REFUSED = 1
_INTERRUPTED = 130
_FILE_ID = "file-"
_SCORES = "rm"
"""The stage whose models score, and do not chat."""


def train(
    config_file: Annotated[
        Path,
        typer.Argument(metavar="CONFIG", exists=True, dir_okay=False, help="YAML or JSON."),
    ],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Stand over the file's.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Show what becomes of each key; needs no service.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="The service's model, instead of model_name_or_path.")
    ] = None,
    suffix: Annotated[str | None, typer.Option(help="Part of the new model's id.")] = None,
    config: ConfigPath = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Train as a LLaMA-Factory config says, follow the job, and print the new model's id.

    The data sets are looked up in dataset_info.json, and uploaded. Ctrl-C stops following, not \
the job. The status is 0 if it succeeded.

    Example: tuneyard train examples/train_lora/qwen3_lora_sft.yaml learning_rate=1e-5
    """
    settings = {**_read(config_file), **_read_changes(changes or ())}
    if is_model_file(settings):
        refuse(f"{config_file} is of a model: tuneyard serve --config {config_file} serves it.")
    made = translate(settings)
    if check:
        _show(made)
        sys.exit(_REFUSED if made.refusal else 0)
    if made.refusal is not None:
        lines = [f"  {v.told}" for v in made.verdicts.values() if v.state is State.REFUSED]
        refuse("\n".join([f"{config_file} cannot be a job:", *lines]))
    with ServiceClient(config, base_url, api_key) as client:
        body = _body(client, settings, made, config_file.parent)
        given = {"model": model, "suffix": suffix}
        body |= {name: value for name, value in given.items() if value is not None}
        job_id = client.post("/fine_tuning/jobs", body)["id"]
        _follow(client, job_id, base_url, chats=made.stage != _SCORES)


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        refuse(f"{path} is not YAML: {error}")
    if not isinstance(settings, dict):
        refuse(f"{path}: expected settings by name, one `name: value` a line.")
    return _plain({str(key): value for key, value in settings.items()})


def _read_changes(changes: Sequence[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for change in changes:
        key, sign, value = change.partition("=")
        if not sign or not key:
            refuse(f"{change!r}: expected KEY=VALUE, such as learning_rate=1e-5.")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            refuse(f"{change!r} is not YAML: {error}")
    return _plain(settings)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """As JSON has it: dates are texts."""
    try:
        return json.loads(json.dumps(settings, default=str, allow_nan=False))
    except ValueError:
        refuse("A setting is infinite, or no number, which a job cannot have.")


def _body(
    client: ServiceClient, settings: dict[str, Any], made: Translation, folder: Path
) -> dict[str, Any]:
    """The request, with what it names uploaded. Where there are several data sets `max_samples` is
    of each, as LLaMA-Factory has it, and not the job's."""
    config = {**settings, **_directories(settings)}
    fields = {"training_file": made.datasets, "validation_file": made.eval_datasets}
    limit: int | None = None
    if any(len(names) > 1 for names in fields.values()):
        limit = made.hyperparameters.get("max_samples")
        config.pop("max_samples", None)
    body: dict[str, Any] = {"llamafactory": config}
    found: dict[str, list[DataSet]] = {}
    try:
        for field, names in fields.items():
            if len(names) == 1 and names[0].startswith(_FILE_ID):
                body[field] = names[0]
            elif names:
                found[field] = find_data_sets(names, settings.get("dataset_dir"), folder)
        uploads = _uploads(found, limit, _mixing(settings, made), Stage(made.stage))
    except (DataSetError, OSError) as error:
        refuse(str(error))
    layout = next((dict(upload.layout) for upload in uploads.values() if upload.layout), None)
    if layout is not None:
        body["dataset"] = layout
    return body | {field: _send(client, upload, fields[field]) for field, upload in uploads.items()}


def _uploads(
    found: Mapping[str, Sequence[DataSet]], limit: int | None, mixing: Mixing, stage: Stage
) -> dict[str, Upload]:
    """A job has one format for all of its files. Raises DataSetError, OSError."""
    data_sets = [each for several in found.values() for each in several]
    written_in = None if len(data_sets) <= 1 or are_alike(data_sets, stage) else stage
    return {
        field: upload_of(several, limit, mixing, written_in) for field, several in found.items()
    }


def _mixing(settings: Mapping[str, Any], made: Translation) -> Mixing:
    """How several data sets become one. Raises DataSetError."""
    try:
        strategy = MixStrategy(settings.get("mix_strategy") or MixStrategy.CONCAT)
    except ValueError:
        raise DataSetError(f"mix_strategy must be one of {', '.join(MixStrategy)}") from None
    return Mixing(strategy, _probabilities(settings.get("interleave_probs")), made.seed)


def _probabilities(told: Any) -> list[float] | None:
    """A list, or a text with commas. Raises DataSetError."""
    if told is None:
        return None
    try:
        return [float(part) for part in (told.split(",") if isinstance(told, str) else told)]
    except (TypeError, ValueError):
        raise DataSetError("interleave_probs must be numbers, such as 0.7,0.3") from None


def _send(client: ServiceClient, upload: Upload, names: Sequence[str]) -> str:
    with upload.content as content:
        sent = {"file": (upload.filename, content)}
        answer = client.post("/files", data={"purpose": "fine-tune"}, files=sent)
    typer.echo(f"{', '.join(names)}: {answer['id']}, {answer['bytes']:,} bytes")
    return answer["id"]


def _directories(settings: Mapping[str, Any]) -> dict[str, str]:
    """Models that are named by a directory here, by their whole path."""
    names = {key: settings.get(key) for key in ("model_name_or_path", "adapter_name_or_path")}
    return {
        key: str(Path(name).resolve())
        for key, name in names.items()
        if isinstance(name, str) and Path(name).is_dir()
    }


def _follow(client: ServiceClient, job_id: str, base_url: str | None, *, chats: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    elsewhere = "" if base_url is None else f" --base-url {shlex.quote(base_url)}"
    try:
        made = follow_job(client, job_id)
    except KeyboardInterrupt:
        console.print(f"{job_id} goes on.", markup=False)
        console.print(f"  tuneyard jobs follow {job_id}{elsewhere}", markup=False)
        console.print(f"  tuneyard jobs cancel {job_id}{elsewhere}", markup=False)
        sys.exit(_INTERRUPTED)
    console.print(made, markup=False)
    if chats:
        console.print(f"  tuneyard chat {shlex.quote(made)}{elsewhere}", markup=False)


def _show(made: Translation) -> None:
    styles = {State.HONOURED: "honoured", State.DROPPED: "dropped", State.REFUSED: "REFUSED"}
    show(
        ("key", "state", "becomes, or why not"),
        ((v.key, styles[v.state], v.told) for v in made.verdicts.values()),
    )
