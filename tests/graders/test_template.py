"""What variables of a grader's text cost, and how many it may have."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from server.graders.running import run_grader
from server.graders.schemas import RunGrader, StringCheck
from server.graders.template import MAX_VARIABLES

CHECK = {"type": "string_check", "name": "n", "reference": "", "operation": "eq"}


def request(text: str, sample: str) -> RunGrader:
    check = {**CHECK, "input": text, "reference": text}
    multi = {"type": "multi", "name": "m", "graders": {"a": check, "b": check}}
    grader = {**multi, "calculate_output": "a + b"}
    return RunGrader.model_validate({"grader": grader, "model_sample": sample})


@pytest.mark.parametrize(("sample", "reward"), [('{"a": ""}', 2.0), ('{"a": ', 0.0)])
def test_a_sample_is_parsed_once_however_often_it_is_named(
    monkeypatch: pytest.MonkeyPatch, sample: str, reward: float
) -> None:
    parsed: list[str] = []
    loads: Callable[[str], Any] = json.loads

    def counted(text: str) -> Any:
        parsed.append(text)
        return loads(text)

    monkeypatch.setattr("server.graders.template.json.loads", counted)
    ran = run_grader(request("{{sample.output_json.a}}" * MAX_VARIABLES, sample))
    assert (ran.reward, ran.metadata.errors.sample_parse_error) == (reward, not reward)
    assert parsed == [sample]


def test_a_text_with_too_many_variables_is_refused() -> None:
    StringCheck.model_validate({**CHECK, "input": "{{item.a}}" * MAX_VARIABLES})
    with pytest.raises(ValueError, match=f"at most {MAX_VARIABLES} variables"):
        StringCheck.model_validate({**CHECK, "input": "{{item.a}}" * (MAX_VARIABLES + 1)})
