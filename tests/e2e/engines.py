"""The same questions to the same model on several engines, with the official `openai` package.

    python -m tests.e2e.engines --base-url http://127.0.0.1:8000/v1 --api-key KEY

Asks every model the server lists, so it wants a server whose models are one model on different
engines.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from openai import BadRequestError, OpenAI
from rich.console import Console

from tests.e2e.story import GET_WEATHER

Tell = Callable[[str], None]
_FRANCE: Any = [{"role": "user", "content": "What is the capital of France?"}]
_WEATHER: Any = [{"role": "user", "content": "What is the weather in Montreal?"}]
_SCHEMA: Any = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Answers:
    """What one engine said."""

    model: str
    fact: str
    streamed: str
    logprob: float
    """Of the fact's first token."""
    called: dict[str, Any]
    chosen: dict[str, Any]
    """Under a JSON schema."""
    stopped: str
    seed: str
    """Honoured, or the error that says that this engine cannot."""


def ask(client: OpenAI, model: str) -> Answers:
    create = client.chat.completions.create
    fact = create(model=model, messages=_FRANCE, temperature=0, logprobs=True)
    scores = fact.choices[0].logprobs
    assert scores is not None
    assert scores.content
    stream = create(model=model, messages=_FRANCE, temperature=0, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    weather = create(model=model, messages=_WEATHER, temperature=0, tools=[GET_WEATHER])
    calls: Any = weather.choices[0].message.tool_calls or []
    chosen = create(
        model=model,
        messages=_FRANCE,
        temperature=0,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "place", "schema": _SCHEMA, "strict": True},
        },
    )
    stopped = create(model=model, messages=_FRANCE, temperature=0, stop=[" is"])
    return Answers(
        model=model,
        fact=fact.choices[0].message.content or "",
        streamed=streamed,
        logprob=scores.content[0].logprob,
        called={call.function.name: json.loads(call.function.arguments) for call in calls},
        chosen=json.loads(chosen.choices[0].message.content or ""),
        stopped=stopped.choices[0].message.content or "",
        seed=_seed(client, model),
    )


def _seed(client: OpenAI, model: str) -> str:
    try:
        answers = [
            client.chat.completions.create(
                model=model, messages=_FRANCE, temperature=2, seed=7, max_tokens=8
            )
            for _ in range(2)
        ]
    except BadRequestError as error:
        return str((error.body or {}).get("message", error))  # type: ignore[attr-defined]
    texts = {answer.choices[0].message.content for answer in answers}
    return "the same again" if len(texts) == 1 else "differs"


def ask_all(base_url: str, api_key: str, tell: Tell) -> list[Answers]:
    with OpenAI(base_url=base_url, api_key=api_key) as client:
        told: list[Answers] = []
        for model in client.models.list():
            answers = ask(client, model.id)
            told.append(answers)
            tell(
                f"{answers.model}\n"
                f"  fact:      {answers.fact}  (logprob of its first token {answers.logprob:.4f})\n"
                f"  streamed:  {answers.streamed}\n"
                f"  called:    {answers.called}\n"
                f"  schema:    {answers.chosen}\n"
                f"  stop ' is' {answers.stopped!r}\n"
                f"  seed:      {answers.seed}"
            )
        return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--api-key", required=True)
    arguments = parser.parse_args()
    console = Console(highlight=False, markup=False, soft_wrap=True)
    ask_all(arguments.base_url, arguments.api_key, console.print)


if __name__ == "__main__":
    main()
