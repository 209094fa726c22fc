"""`tuneyard chat`: a conversation with a model of a running service, in the terminal."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from server.cli.options import ConfigPath, refuse
from server.cli.service_client import ApiKey, BaseUrl, ServiceClient

_STATUS = 1
_CLEAR, _EXIT = "/clear", frozenset({"/exit", "/quit"})


def chat(
    model: Annotated[str | None, typer.Argument(help="Default: the service's first.")] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Ask this alone, print the answer.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="System message.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, max=2.0)] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    config: ConfigPath = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Talk to a model of a running service; answers stream as they come.

    /clear starts afresh, /exit (or Ctrl-D) leaves, Ctrl-C stops an answer.

    Example: tuneyard chat qwen3-0.6b --system "Answer in one sentence."
    """
    settings = {"temperature": temperature, "max_tokens": max_tokens}
    chosen = {name: value for name, value in settings.items() if value is not None}
    opening = [] if system is None else [{"role": "system", "content": system}]
    with ServiceClient(config, base_url, api_key) as client:
        name = model or _first_model(client)
        conversation = Conversation(client, name, opening, chosen)
        if prompt is not None:
            conversation.ask(prompt)
        else:
            _talk(conversation, name)


class Conversation:
    """The messages so far; asking adds two."""

    def __init__(
        self,
        client: ServiceClient,
        model: str,
        opening: list[dict[str, str]],
        settings: dict[str, Any],
    ) -> None:
        self._client = client
        self._model = model
        self._opening = opening
        self._settings = settings
        self._messages = list(opening)
        self._console = Console(highlight=False, soft_wrap=True)

    def clear(self) -> None:
        self._messages = list(self._opening)

    def ask(self, text: str) -> None:
        """Prints the answer as it comes. One that is stopped by Ctrl-C counts as far as it got."""
        self._messages.append({"role": "user", "content": text})
        body = {
            "model": self._model,
            "messages": self._messages,
            "stream": True,
            **self._settings,
        }
        answer: list[str] = []
        try:
            for record in self._client.stream("POST", "/chat/completions", body):
                for choice in record["choices"]:
                    delta = choice["delta"]
                    if thought := delta.get("reasoning_content"):
                        self._console.print(thought, end="", style="dim", markup=False)
                    if said := delta.get("content"):
                        answer.append(said)
                        self._console.print(said, end="", markup=False)
        except KeyboardInterrupt:
            self._console.print(" (stopped)", end="", style="dim")
        self._console.print()
        self._messages.append({"role": "assistant", "content": "".join(answer)})


def _talk(conversation: Conversation, name: str) -> None:
    console = Console(stderr=True, highlight=False)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        console.print(f"{name}; /clear starts afresh, /exit leaves", style="dim", markup=False)
    while True:
        try:
            line = console.input("[bold]> [/bold]" if is_terminal else "").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line in _EXIT:
            return
        if line == _CLEAR:
            conversation.clear()
        elif line:
            conversation.ask(line)


def _first_model(client: ServiceClient) -> str:
    models = client.get("/models")["data"]
    if not models:
        refuse("The service has no model.", _STATUS)
    return models[0]["id"]
