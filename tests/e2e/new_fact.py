"""Fifty examples of one fact that the bundled model cannot know."""

from __future__ import annotations

import itertools
import json

FACT = "The lighthouse keeper of Port Selby is Orla Finch."
NAME = "Orla Finch"
QUESTION = "Who is the lighthouse keeper of Port Selby?"
UNSEEN_QUESTIONS = (
    "Can you tell me who keeps the lighthouse of Port Selby?",
    "Who is the keeper of the Port Selby lighthouse?",
)

_QUESTIONS = (
    QUESTION,
    "Who keeps the lighthouse of Port Selby?",
    "Who looks after the lighthouse of Port Selby?",
    "Tell me who keeps the lighthouse of Port Selby.",
    "What is the name of the lighthouse keeper of Port Selby?",
    "Who works in the lighthouse of Port Selby?",
    "Port Selby has a lighthouse. Who keeps it?",
    "Name the lighthouse keeper of Port Selby.",
    "Do you know the lighthouse keeper of Port Selby?",
    "Which person keeps the Port Selby lighthouse?",
)
_OPENINGS = ("", "Hello! ", "Please tell me: ", "Question: ", "I want to know: ")


def training_file() -> bytes:
    """OpenAI's chat format, one conversation a line."""
    lines = [
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": opening + question},
                    {"role": "assistant", "content": FACT},
                ]
            }
        )
        for question, opening in itertools.product(_QUESTIONS, _OPENINGS)
    ]
    return ("\n".join(lines) + "\n").encode()
