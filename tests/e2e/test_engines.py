"""One model on all three engines, from one configuration, asked the same by one script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conformance.engines import KINDS, ROOT
from tests.conformance.model_files import MODEL_PATH
from tests.e2e.conftest import Server, serving
from tests.e2e.engines import Answers, ask_all

pytestmark = [pytest.mark.engine_env, pytest.mark.slow]
ENGINES = ("hf", "vllm", "sglang")


def _interpreter(engine: str, folder: Path) -> str:
    """Of the engine's environment; SGLang's with the stand-in for its kernels, which have no CPU
    build, and for SGLang only."""
    python = KINDS[engine].python
    if python is None:
        pytest.skip(f"no environment for {engine}: `tuneyard env create {engine}`")
    if engine != "sglang":
        return str(python)
    wrapper = folder / "python-with-stub"
    stub = ROOT / "tests" / "sgl_kernel_stub"
    wrapper.write_text(
        f'#!/bin/sh\nexport PYTHONPATH="{stub}:{ROOT}"\nexec "{python.absolute()}" "$@"\n'
    )
    wrapper.chmod(0o755)
    return str(wrapper)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Answers]]:
    folder = tmp_path_factory.mktemp("engines")
    entries = [
        {
            "id": f"mini-{engine}",
            "path": str(MODEL_PATH),
            "engine": engine,
            "python": _interpreter(engine, folder),
            "dtype": "float32",
            "device": "cpu",
            "max_loras": 2,
            "max_lora_rank": 16,
            "max_num_seqs": 8,
        }
        for engine in ENGINES
    ]
    config = folder / "tuneyard.yaml"
    config.write_text(yaml.safe_dump({"models": entries}))
    names = [str(entry["id"]) for entry in entries]
    with serving(folder, config, names) as server:
        yield _ask(server)


def _ask(server: Server) -> list[Answers]:
    return ask_all(server.base_url, server.api_key, lambda text: None)


def test_every_engine_answers_alike(answers: list[Answers]) -> None:
    assert sorted(answer.model for answer in answers) == sorted(f"mini-{e}" for e in ENGINES)
    for answer in answers:
        assert answer.fact == answer.streamed == "The capital of France is Paris."
        assert answer.called == {"get_weather": {"city": "Montreal"}}
        assert answer.chosen["city"] in ("Paris", "Rome")
        assert answer.stopped == "The capital of France"
        assert answer.logprob == pytest.approx(answers[0].logprob, abs=1e-3)
    assert len({answer.chosen["city"] for answer in answers}) == 1


def test_a_seed_is_honoured_or_refused_by_name(answers: list[Answers]) -> None:
    seeds = {answer.model.removeprefix("mini-"): answer.seed for answer in answers}
    assert seeds["hf"] == seeds["vllm"] == "the same again"
    assert "sglang" in seeds["sglang"]
    assert "seed" in seeds["sglang"]
