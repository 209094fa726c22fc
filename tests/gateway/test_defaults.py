"""What the operator sets for a model, and what the model's own files say, under every request."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from server.config import ModelEntry
from server.config.generation import GenerationDefaults
from server.errors import InternalError, InvalidRequest
from server.generation.defaults import model_defaults
from server.generation.sampling import AskedSampling as SamplingFields
from server.generation.sampling import plan_sampling
from workers.contract.hello import PROTOCOL_VERSION, Capability, Hello
from workers.contract.parts import Sampling
from workers.engine.backend import Description, RefusedError
from workers.engine.checks import RequestChecks
from workers.engine.generation_config import generation_config
from workers.engine.spec import BackendName, EngineSpec


def hello(**fields: Any) -> Hello:
    return Hello(
        **{
            "protocol": PROTOCOL_VERSION,
            "model": "m",
            "engine": "hf/5",
            "max_model_len": 64,
            "vocab_size": 100,
            "capabilities": [Capability.REPETITION_PENALTY],
            "generation": {"temperature": 0.7, "top_p": 0.9, "min_p": 0.1},
            **fields,
        }
    )


def planned(entry: dict[str, Any], **fields: Any) -> Sampling:
    defaults = model_defaults(GenerationDefaults(**entry), hello())
    return plan_sampling(
        SamplingFields(**fields),
        hello(),
        defaults.sampling,
        max_tokens=None,
        logprobs=None,
        stop_words=("<|im_end|>",),
    )


def test_the_model_the_operator_and_the_request_in_that_order() -> None:
    plain = planned({})
    assert (plain.temperature, plain.top_p) == (0.7, 0.9)
    assert plain.min_p == 0, "the engine has no min_p"
    assert planned({"temperature": 0.3}).temperature == 0.3
    assert planned({"temperature": 0.3}, temperature=1.5).temperature == 1.5
    assert planned({"model_config_file": False}).temperature == 1.0
    settled = planned({"stop": ["a"], "repetition_penalty": 1.2}, seed=None, top_k=4)
    assert settled.stop == ["a"]
    assert (settled.repetition_penalty, settled.top_k, settled.top_p) == (1.2, 4, 0.9)
    assert planned({"stop": ["a"]}, stop="b").stop == ["b"]
    assert planned({"skip_special_tokens": False}).skip_special_tokens is False
    assert planned({"skip_special_tokens": False}, skip_special_tokens=True).skip_special_tokens
    assert planned({}, top_p=0.5).stop_words == ["<|im_end|>"]


def test_a_default_length_is_cut_to_the_context_but_one_asked_for_is_not() -> None:
    assert planned({"max_new_tokens": 9}).max_tokens == 9
    assert planned({"max_new_tokens": 9}).cap_to_context
    defaults = model_defaults(GenerationDefaults(max_tokens=9), hello()).sampling
    asked = plan_sampling(SamplingFields(), hello(), defaults, max_tokens=5, logprobs=None)
    assert (asked.max_tokens, asked.cap_to_context) == (5, False)


def test_the_worker_cuts_a_default_length_to_the_context() -> None:
    names = SimpleNamespace(size=10)
    checks = RequestChecks(Description("hf/5", 64, frozenset()), names)  # type: ignore[arg-type]
    assert checks.prompt([1] * 60, Sampling(max_tokens=9, cap_to_context=True)) == 4
    assert checks.prompt([1] * 10, Sampling(max_tokens=9, cap_to_context=True)) == 9
    for sampling in (Sampling(max_tokens=9), Sampling(max_tokens=9, cap_to_context=True)):
        with pytest.raises(RefusedError):
            checks.prompt([1] * (60 if not sampling.cap_to_context else 64), sampling)


def test_do_sample_is_a_temperature_of_zero() -> None:
    assert planned({"do_sample": False}).temperature == 0
    assert planned({"do_sample": False}, temperature=0.4).temperature == 0.4
    assert planned({}, do_sample=False).temperature == 0
    assert planned({}, do_sample=True).temperature == 0.7
    with pytest.raises(InvalidRequest) as caught:
        planned({}, do_sample=False, temperature=1.0)
    assert caught.value.param == "do_sample"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"num_beams": 4}, "num_beams can only be 1"),
        ({"length_penalty": 0.5}, "length_penalty can only be 1.0"),
        ({"max_length": 512}, "max_model_len"),
        ({"do_sample": False, "temperature": 1.0}, "contradict"),
        ({"max_tokens": 1, "max_new_tokens": 1}, "same setting"),
        ({"temprature": 1.0}, "temprature"),
    ],
)
def test_settings_that_cannot_be_honoured_stop_the_start(entry: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ModelEntry(id="m", path="/m", generation=entry)  # type: ignore[arg-type]


def test_neutral_settings_of_beam_search_are_taken() -> None:
    assert GenerationDefaults(num_beams=1, length_penalty=1.0) == GenerationDefaults()  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="no tool-call dialect 'qwn'"):
        ModelEntry(id="m", path="/m", tool_format="qwn")


def test_a_default_that_the_engine_cannot_honour_is_the_operators_error() -> None:
    with pytest.raises(InternalError, match="min_p"):
        model_defaults(GenerationDefaults(min_p=0.2), hello())


def test_the_worker_reads_the_models_generation_config(tmp_path: Path) -> None:
    spec = EngineSpec(
        model_id="m", backend=BackendName.HF, listen="unix:/x", model_path=str(tmp_path)
    )
    assert generation_config(spec) == {}
    file = tmp_path / "generation_config.json"
    file.write_text('{"temperature": 0.6, "top_k": 20, "top_p": null, "do_sample": true}')
    assert generation_config(spec) == {"temperature": 0.6, "top_k": 20}
    file.write_text('{"temperature": -1, "top_p": 7}')
    assert generation_config(spec) == {}
    file.write_text("{broken")
    assert generation_config(spec) == {}
