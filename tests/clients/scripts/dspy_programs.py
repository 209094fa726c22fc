import os
from typing import Literal

import dspy
import litellm

MODEL = os.environ["MODEL"]
QUESTION = "What is the capital of France?"
PARIS = "The capital of France is Paris."

# DSPy asks LiteLLM's list of models whether one honours a schema; one that is not in it does not.
litellm.register_model({f"openai/{MODEL}": {"mode": "chat", "supports_response_schema": True}})


class Placing(dspy.Signature):
    """Name the city."""

    question: str = dspy.InputField()
    city: Literal["Paris", "Rome"] = dspy.OutputField()


for kind in ("chat", "responses"):
    lm = dspy.LM(f"openai/{MODEL}", model_type=kind, temperature=0, max_tokens=200, cache=False)
    (answer,) = lm(QUESTION)
    assert (answer if isinstance(answer, str) else answer["text"]) == PARIS, answer
    dspy.configure(lm=lm, adapter=dspy.JSONAdapter())
    assert dspy.Predict(Placing)(question=QUESTION).city in ("Paris", "Rome")

embed = dspy.Embedder(f"openai/{MODEL}", caching=False)
assert embed(["one", "two"]).shape[0] == 2
