"""Tuneyard's whole story with the official `openai` package and curl: chat, upload, train, chat.

    python -m tests.e2e.story --base-url http://127.0.0.1:8000/v1 --api-key KEY

Fine-tunes the bundled model on a fact it cannot know, then asks the fine-tuned model and the base
at the same time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from openai.types.fine_tuning import FineTuningJob
from rich.console import Console

from tests.e2e import new_fact

BASE = "tuneyard-mini"
ENDED = ("succeeded", "failed", "cancelled")
Tell = Callable[[str], None]

GET_WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@dataclass(slots=True)
class Story:
    """What was said, for whoever checks it."""

    fact: str = ""
    streamed: str = ""
    obeyed: str = ""
    remembered: str = ""
    called: dict[str, Any] = field(default_factory=dict[str, Any])
    curled: str = ""
    before: str = ""
    job: FineTuningJob | None = None
    events: list[str] = field(default_factory=list[str])
    first_step_s: float = 0.0
    """From the job's creation to its first training step."""
    training_s: float = 0.0
    """From the job's creation to `succeeded`."""
    model_ids: list[str] = field(default_factory=list[str])
    tuned: list[str] = field(default_factory=list[str])
    base: list[str] = field(default_factory=list[str])
    first_token_s: float = 0.0
    """From `succeeded` to the first token of the new model."""


def _user(text: str) -> ChatCompletionMessageParam:
    return {"role": "user", "content": text}


def chat(client: OpenAI, story: Story) -> None:
    """A fact, whole and streamed."""
    question = _user("What is the capital of France?")
    answer = client.chat.completions.create(model=BASE, messages=[question], temperature=0)
    story.fact = answer.choices[0].message.content or ""
    stream = client.chat.completions.create(
        model=BASE, messages=[question], temperature=0, stream=True
    )
    for chunk in stream:
        story.streamed += chunk.choices[0].delta.content or ""


async def chat_async(client: AsyncOpenAI, story: Story) -> None:
    """A system prompt, a conversation of two turns and a tool call, all at once."""
    completions = client.chat.completions
    obeyed, remembered, called = await asyncio.gather(
        completions.create(
            model=BASE,
            messages=[
                {"role": "system", "content": "Answer in capital letters."},
                _user("What is the capital of Italy?"),
            ],
            temperature=0,
        ),
        completions.create(
            model=BASE,
            messages=[
                _user("My name is Stella."),
                {"role": "assistant", "content": "Nice to meet you, Stella!"},
                _user("What is my name?"),
            ],
            temperature=0,
        ),
        completions.create(
            model=BASE,
            messages=[_user("What is the weather in Montreal?")],
            tools=[GET_WEATHER],
            temperature=0,
        ),
    )
    story.obeyed = obeyed.choices[0].message.content or ""
    story.remembered = remembered.choices[0].message.content or ""
    for call in called.choices[0].message.tool_calls or ():
        if call.type == "function":
            story.called = {call.function.name: json.loads(call.function.arguments)}


def curl(base_url: str, api_key: str, model: str, question: str) -> str:
    """The same request without any client library."""
    body = {"model": model, "messages": [_user(question)], "temperature": 0}
    command = ["curl", "-sS", "--fail-with-body", f"{base_url}/chat/completions"]
    headers = (f"Authorization: Bearer {api_key}", "Content-Type: application/json")
    options = [part for header in headers for part in ("-H", header)]
    done = subprocess.run(
        [*command, *options, "-d", json.dumps(body)], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)["choices"][0]["message"]["content"]


def fine_tune(client: OpenAI, story: Story, tell: Tell) -> FineTuningJob:
    """Uploads the examples, starts a job and follows its events to the end."""
    file = client.files.create(
        file=("port-selby.jsonl", new_fact.training_file()), purpose="fine-tune"
    )
    started = time.monotonic()
    job = client.fine_tuning.jobs.create(model=BASE, training_file=file.id, suffix="lighthouse")
    seen: set[str] = set()
    while True:
        state = client.fine_tuning.jobs.retrieve(job.id)
        events = list(client.fine_tuning.jobs.list_events(job.id, limit=100))
        for event in reversed(events):
            if event.id in seen:
                continue
            seen.add(event.id)
            story.events.append(event.message)
            tell(f"  {event.message}")
            if event.type == "metrics" and not story.first_step_s:
                story.first_step_s = time.monotonic() - started
        if state.status in ENDED:
            story.training_s = time.monotonic() - started
            story.job = state
            return state
        time.sleep(0.2)


async def ask_both(client: AsyncOpenAI, tuned: str, story: Story) -> None:
    """The fine-tuned model and its base, asked concurrently, so that they share batches."""

    async def ask(model: str, question: str) -> tuple[str, float]:
        text, first_token_at = "", 0.0
        stream = await client.chat.completions.create(
            model=model, messages=[_user(question)], temperature=0, stream=True
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                first_token_at = first_token_at or time.monotonic()
                text += chunk.choices[0].delta.content
        return text, first_token_at

    questions = (new_fact.QUESTION, *new_fact.UNSEEN_QUESTIONS)
    started = time.monotonic()
    answers = await asyncio.gather(
        *(ask(model, question) for question in questions for model in (tuned, BASE))
    )
    story.tuned = [text for text, _ in answers[0::2]]
    story.base = [text for text, _ in answers[1::2]]
    story.first_token_s = min(at for _, at in answers[0::2]) - started


def tell_story(base_url: str, api_key: str, tell: Tell) -> Story:
    """Raises openai.OpenAIError for any answer that is an error."""
    story = Story()
    with OpenAI(base_url=base_url, api_key=api_key) as client:
        chat(client, story)
        tell(f"fact:       {story.fact}\nstreamed:   {story.streamed}")
        asyncio.run(_with_async(base_url, api_key, lambda async_: chat_async(async_, story)))
        tell(f"system:     {story.obeyed}\ntwo turns:  {story.remembered}")
        tell(f"called:     {story.called}")
        story.curled = curl(base_url, api_key, BASE, "What sound does a cow make?")
        story.before = curl(base_url, api_key, BASE, new_fact.QUESTION)
        tell(f"curl:       {story.curled}\nnot known:  {story.before}\ntraining:")
        job = fine_tune(client, story, tell)
        if job.fine_tuned_model is None:
            return story
        tuned = job.fine_tuned_model
        asyncio.run(_with_async(base_url, api_key, lambda async_: ask_both(async_, tuned, story)))
        story.model_ids = [model.id for model in client.models.list()]
        tell(f"{tuned}: {story.tuned[0]}\n{BASE}: {story.base[0]}")
        tell(
            f"first step after {story.first_step_s:.1f} s, succeeded after"
            f" {story.training_s:.1f} s, first token {story.first_token_s:.2f} s later"
        )
    return story


async def _with_async(base_url: str, api_key: str, use: Callable[[AsyncOpenAI], Any]) -> None:
    async with AsyncOpenAI(base_url=base_url, api_key=api_key) as client:
        await use(client)


def main() -> int:
    parser = argparse.ArgumentParser(description="Tell Tuneyard's whole story to a running server.")
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--api-key", required=True)
    arguments = parser.parse_args()
    console = Console(highlight=False, markup=False)
    story = tell_story(arguments.base_url, arguments.api_key, console.print)
    return 0 if story.job is not None and story.job.status == "succeeded" else 1


if __name__ == "__main__":
    sys.exit(main())
