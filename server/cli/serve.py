"""`tuneyard serve`: the root process. It opens the port, makes the first key, starts the gateway
and the supervisor, says how to use the service, and ends everything it started. Engine workers live
as long as it does, by a pipe whose other end it holds: no fault of the supervisor ends them."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
import sys
from pathlib import Path

from rich.console import Console

from server.cli.announcing import announce_failures, announce_ready
from server.cli.children import Child, ChildSpec
from server.config import Config
from server.config.addresses import is_loopback
from server.data_directory import DataUnusableError, check_database, prepare_data
from server.environments.locate import EnvironmentMissingError, engine_python
from server.first_key import FirstKey, ensure_first_key
from server.logs import configure_logging
from server.models.chat_formats import check_chat_formats
from server.store import StoreUnusableError, open_store, told_to_operator
from server.supervisor.left_workers import end_left_workers
from server.supervisor.remote_slot import read_token
from templates.format import FormatError

_BACKLOG = 2048
_CANNOT_START_STATUS = 1
_MIN_KEY_LENGTH = 16
"""Of a configured key, on addresses that are not this machine's own."""


class _CannotStart(Exception):
    """The message is for the operator."""


async def serve(config: Config, console: Console) -> int:
    """Until SIGINT or SIGTERM; gives the exit status."""
    configure_logging("root", logging.WARNING)
    try:
        _check_key(config)
        prepare_data(config)
        _check_environments(config)
        check_chat_formats(config)
        _check_tokens(config)
        lock = _lock(config)
        check_database(config)
        key = await _first_key(config)
        listening = _listen(config)
    except (_CannotStart, DataUnusableError, StoreUnusableError, FormatError) as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        return _CANNOT_START_STATUS
    config = config.model_copy(update={"port": listening.getsockname()[1]})
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    end_left_workers(config.run_dir)
    try:
        await _run(config, key, listening, stop, console)
    finally:
        end_left_workers(config.run_dir)
        listening.close()
        os.close(lock)
    return 0


def _check_environments(config: Config) -> None:
    """A model whose engine has no environment would only be restarted over and over."""
    try:
        for entry in [entry for entry in config.models if entry.replicas]:
            engine_python(entry.engine.value, entry.python)
    except EnvironmentMissingError as error:
        raise _CannotStart(str(error)) from error


def _check_key(config: Config) -> None:
    """A key that can be sent, and on an address that others reach one that cannot be guessed."""
    key = config.api_key
    if key is None:
        return
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise _CannotStart("API_KEY cannot be sent in a header: use printable ASCII, no blanks.")
    if len(key) < _MIN_KEY_LENGTH and not is_loopback(config.host):
        raise _CannotStart(
            f"API_KEY has {len(key)} characters, and {config.host} can be reached from elsewhere: "
            f"use {_MIN_KEY_LENGTH} or more (`openssl rand -hex 32` makes one), or none, and "
            "one is made."
        )


def _check_tokens(config: Config) -> None:
    try:
        for name in sorted({entry.token_file for entry in config.models if entry.token_file}):
            read_token(Path(name))
    except (OSError, ValueError) as error:
        raise _CannotStart(f"A token_file cannot be used: {error}") from error


async def _run(
    config: Config, key: FirstKey, listening: socket.socket, stop: asyncio.Event, console: Console
) -> None:
    life, lives_on = os.pipe()
    children = [Child(spec) for spec in _child_specs(config, listening, life)]
    running = [asyncio.create_task(child.run()) for child in children]
    _introduce(config, key, console)
    announcing = [
        asyncio.create_task(announce_ready(_base_url(config), console)),
        asyncio.create_task(announce_failures(config.run_dir, console)),
    ]
    await stop.wait()
    console.print("Stopping ...")
    for task in announcing:
        task.cancel()
    await asyncio.gather(*(child.stop() for child in children))
    for task in running:
        task.cancel()
    await asyncio.gather(*announcing, *running, return_exceptions=True)
    os.close(life)
    os.close(lives_on)
    console.print("Stopped.")


def _child_specs(config: Config, listening: socket.socket, life: int) -> list[ChildSpec]:
    resolved = config.run_dir / "config.json"
    resolved.touch(mode=0o600)  # it may hold the keys of attached engines
    resolved.write_text(config.model_dump_json(exclude={"api_key"}))
    logs = config.data / "logs"
    listen_fd = listening.fileno()

    def gateway(parent_fd: int) -> list[str]:
        return [
            *(sys.executable, "-m", "server.cli", "gateway", "--config", str(resolved)),
            *("--parent-fd", str(parent_fd), "--listen-fd", str(listen_fd)),
        ]

    def supervisor(parent_fd: int) -> list[str]:
        return [
            *(sys.executable, "-m", "server.supervisor"),
            *("--config", str(resolved), "--parent-fd", str(parent_fd), "--engines-fd", str(life)),
        ]

    return [
        ChildSpec("gateway", gateway, logs / "gateway.log", inherited=(listen_fd,)),
        ChildSpec(
            "supervisor",
            supervisor,
            logs / "supervisor.log",
            inherited=(life,),
            stop_signal=signal.SIGINT,
        ),
    ]


def _lock(config: Config) -> int:
    """Held while the service runs, so two never share a data directory."""
    descriptor = os.open(config.run_dir / "serve.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise _CannotStart(f"Another tuneyard is running on {config.data}.") from None
    return descriptor


def _listen(config: Config) -> socket.socket:
    """The port is open from here on: early callers wait until the gateway is up."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((config.host, config.port))
    except OSError as error:
        listening.close()
        where = f"{config.host}:{config.port}"
        raise _CannotStart(f"Cannot listen on {where}: {error.strerror}.") from error
    listening.listen(_BACKLOG)
    return listening


async def _first_key(config: Config) -> FirstKey:
    store = await open_store(config.database_url)
    try:
        with told_to_operator(config.database_url):
            return await ensure_first_key(store, config.data, config.api_key)
    finally:
        await store.close()


def _base_url(config: Config) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.host, config.host)
    return f"http://{host}:{config.port}"


def _introduce(config: Config, key: FirstKey, console: Console) -> None:
    url = f"{_base_url(config)}/v1"
    shown = key.plain or f"(the one set before; it begins with {key.record.prefix})"
    secret = key.plain or "$API_KEY"
    model = config.models[0].id if config.models else "MODEL"
    lines = [
        "",
        f"URL      {url}",
        f"API key  {shown}",
        f"Models   {', '.join(entry.id for entry in config.models) or 'none'}",
        f"Data     {config.data} (logs in {config.data / 'logs'})",
        "",
        f"curl {url}/chat/completions -H 'Authorization: Bearer {secret}' "
        "-H 'Content-Type: application/json' "
        f'-d \'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}\'',
        "",
        "from openai import OpenAI",
        f'client = OpenAI(base_url="{url}", api_key="{secret}")',
        f'answer = client.chat.completions.create(model="{model}", '
        'messages=[{"role": "user", "content": "Hello!"}])',
        "print(answer.choices[0].message.content)",
        "",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
