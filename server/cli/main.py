"""The commands and their options; what they do is in the modules beside this one."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console

from server.cli.batch import batch
from server.cli.chat import chat
from server.cli.keys import app as keys
from server.cli.objects import files, jobs, models
from server.cli.options import ConfigPath, load, refuse
from server.cli.projects import app as projects
from server.cli.served_model import ServedBy, load_for
from server.cli.train import train
from server.cli.usage import usage
from server.cli.webhooks import app as webhooks
from server.config import Config
from server.config.listing import names_table
from server.environments.commands import app as environments
from templates.format import FormatError

cli = typer.Typer(
    name="tuneyard",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""A self-hosted service that speaks OpenAI's API for inference and fine-tuning.

[bold]tuneyard serve[/bold] starts everything on this machine: the HTTP gateway, the supervisor, \
an engine worker for each configured model, and trainers as jobs come. It prints the address, the \
API key, and lines to try it with. Stop it with Ctrl-C; start it again on the same data directory \
and it goes on where it was, running fine-tuning jobs included.

Settings come from a YAML file (--config, or tuneyard.yaml where you are); HOST, PORT, DATA and \
API_KEY in the environment win over it. Without a file, the bundled model is served.""",
)

cli.command()(chat)
cli.command()(train)
cli.command()(batch)
cli.command()(usage)
for _group in (jobs, files, models, projects, keys, webhooks, environments):
    cli.add_typer(_group)

_ParentDescriptor = Annotated[int, typer.Option(help="Pipe that ends with the parent process.")]
_FAULT_STATUS = 1


@cli.command()
def serve(
    model: Annotated[
        str | None,
        typer.Argument(help="A directory or a name on a hub, served without a settings file."),
    ] = None,
    engine: Annotated[
        ServedBy, typer.Option(help="Of MODEL; auto: vllm where it and a GPU are, else hf.")
    ] = ServedBy.AUTO,
    config: ConfigPath = None,
) -> None:
    """Start the gateway, the supervisor and the engine workers, and keep them running.

    Ctrl-C ends all of them within ten seconds; a running job keeps its progress.

    Example: tuneyard serve Qwen/Qwen3-0.6B
    """
    from server.cli.serve import serve as run

    settings = load(config) if model is None else load_for(model, engine, config)
    sys.exit(asyncio.run(run(settings, Console())))


@cli.command()
def engine(
    model: Annotated[str, typer.Option(help="Id of a model in the settings file.")],
    listen: Annotated[str, typer.Option(help="Where to listen: tcp:HOST:PORT.")],
    token_file: Annotated[
        Path, typer.Option(help="Holds the secret that clients must know, on one line.")
    ],
    config: ConfigPath = None,
    drain_timeout_s: Annotated[
        float, typer.Option(help="What requests have to end in once this is told to stop.")
    ] = 600.0,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate chain (PEM): connections are encrypted.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="Its private key, if it is not in the same file.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen for other hosts without encryption.")
    ] = False,
) -> None:
    """Run one engine worker for a Tuneyard on another machine.

    There, the model's entry lists this machine under addresses, and the same secret under \
token_file. SIGTERM and Ctrl-C let requests under way end first; a second one does not. With \
--tls-cert the entry says tls:HOST:PORT, and names under ca_file what vouches for it.
    """
    from server.cli.engine import HostedEngine, run_engine

    options = HostedEngine(model, listen, token_file, drain_timeout_s, tls_cert, tls_key, insecure)
    sys.exit(asyncio.run(run_engine(load(config), options, Console())))


@cli.command()
def openapi() -> None:
    """Print the HTTP API's OpenAPI document as YAML."""
    from server.app import create_app

    document = create_app(Config()).openapi()
    sys.stdout.write(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100))


@cli.command()
def check(
    config: ConfigPath = None,
    names: Annotated[
        bool, typer.Option("--names", help="Show which engine honours LLaMA-Factory's names.")
    ] = False,
) -> None:
    """Read the settings, say what is wrong with them or show them with every default.

    No engine is started, but the files are looked at: where a named template differs from the \
model's own, and whether the adapters of the entries can be served (if not, the status is 1). Of \
models on a hub the config and the tokenizer are fetched.
    """
    if names:
        Console().print(names_table())
        return
    from server.cli.preflight import ModelFiles, look_at_models
    from server.models.chat_formats import check_chat_formats

    loaded = load(config)
    files = ModelFiles()
    try:
        check_chat_formats(loaded, files.directory)
    except FormatError as error:
        refuse(str(error))
    secrets = {
        "api_key": True,
        "models": {"__all__": {"api_key", "hub_token"}},
        "webhooks": {"__all__": {"secret"}},
    }
    settings = loaded.model_dump(mode="json", exclude=secrets)
    sys.stdout.write(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    remarks = [*look_at_models(loaded, files.directory), *files.remarks]
    for remark in remarks:
        style = "red" if remark.is_fault else "yellow"
        console = Console(stderr=True)
        console.print(remark.text, style=style, markup=False, highlight=False, soft_wrap=True)
    sys.exit(_FAULT_STATUS if any(remark.is_fault for remark in remarks) else 0)


@cli.command(hidden=True)
def gateway(
    config: Annotated[Path, typer.Option()],
    parent_fd: _ParentDescriptor,
    listen_fd: Annotated[int, typer.Option(help="The listening socket.")],
) -> None:
    """The HTTP process; started by `serve`."""
    from server.cli.gateway import run_gateway

    run_gateway(_read_resolved(config), parent_fd=parent_fd, listen_fd=listen_fd)


def _read_resolved(path: Path) -> Config:
    """What the root process wrote for its children: paths absolute, the environment applied."""
    return Config.model_validate_json(path.read_bytes())


def main() -> None:
    cli()
