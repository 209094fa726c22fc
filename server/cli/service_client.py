"""The commands' own client: a running service over its HTTP API."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, NoReturn, Self

import httpx
import typer

from server.cli.options import load, refuse

_STATUS = 1
_CONNECT_TIMEOUT_S = 5.0
_DATA_PREFIX = "data: "
_END = "[DONE]"

BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        envvar="OPENAI_BASE_URL",
        help="Of the service, with /v1. Default: the host and port of the settings.",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="API_KEY",
        help="Default: OPENAI_API_KEY for a named --base-url, else the key of the first start.",
    ),
]


class ServiceClient:
    """Speaks to one service with one key. What the service refuses, and a service that is not
    there, ends the command with one line."""

    def __init__(self, config: Path | None, base_url: str | None, api_key: str | None) -> None:
        settings = load(config)
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
        self._base_url = (base_url or f"http://{host}:{settings.port}/v1").rstrip("/")
        elsewhere = os.environ.get("OPENAI_API_KEY") if base_url else None
        key = api_key or elsewhere or settings.api_key or _first_key(settings.data)
        if key is None:
            refuse("No API key: give --api-key, or set API_KEY.", _STATUS)
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S),
            trust_env=not self._base_url.startswith("http://127."),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        return self._ask("GET", path, params=query)

    def post(self, path: str, body: Mapping[str, Any] | None = None, **more: Any) -> Any:
        return self._ask("POST", path, json=body, **more)

    def download(self, path: str, target: Path) -> None:
        """The bytes of an answer into a file."""
        try:
            with self._http.stream("GET", f"{self._base_url}{path}") as answer:
                if answer.is_error:
                    answer.read()
                    _refuse_answer(answer)
                with target.open("wb") as file:
                    for chunk in answer.iter_bytes():
                        file.write(chunk)
        except httpx.HTTPError as error:
            self._refuse_absence(error)

    def delete(self, path: str) -> Any:
        return self._ask("DELETE", path)

    def pages(self, path: str, limit: int) -> Iterator[dict[str, Any]]:
        """The objects of a list, page after page, at most `limit`."""
        after: dict[str, str] = {}
        while limit > 0:
            page = self.get(path, limit=min(limit, 100), **after)
            yield from page["data"]
            limit -= len(page["data"])
            if not page.get("has_more") or not page["data"]:
                return
            after = {"after": page["data"][-1]["id"]}

    def stream(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The records of an event stream."""
        url = f"{self._base_url}{path}"
        try:
            with self._http.stream(method, url, json=body) as answer:
                if answer.is_error:
                    answer.read()
                    _refuse_answer(answer)
                for line in answer.iter_lines():
                    if not line.startswith(_DATA_PREFIX):
                        continue
                    if line == f"{_DATA_PREFIX}{_END}":
                        return
                    record = json.loads(line.removeprefix(_DATA_PREFIX))
                    if "error" in record:
                        refuse(record["error"]["message"], _STATUS)
                    yield record
        except httpx.HTTPError as error:
            self._refuse_absence(error)

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        try:
            answer = self._http.request(method, f"{self._base_url}{path}", **more)
        except httpx.HTTPError as error:
            self._refuse_absence(error)
        if answer.is_error:
            _refuse_answer(answer)
        return answer.json()

    def _refuse_absence(self, error: httpx.HTTPError) -> NoReturn:
        refuse(
            f"No service answers at {self._base_url} ({error or type(error).__name__}). Start one "
            "with `tuneyard serve`, or name it with --base-url.",
            _STATUS,
        )


def _first_key(data: Path) -> str | None:
    try:
        return (data / "first_key").read_text().strip() or None
    except OSError:
        return None


def _refuse_answer(answer: httpx.Response) -> NoReturn:
    try:
        message = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"The service answered {answer.status_code}."
    refuse(message, _STATUS)
