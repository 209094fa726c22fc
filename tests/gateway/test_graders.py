"""`client.fine_tuning.alpha.graders` against a live gateway."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import openai
import pytest

from server.errors import RateLimited
from server.graders.running import MAX_OF_PROJECT, GraderRunner
from server.graders.schemas import RunGrader
from server.graders.template import MAX_TEXT_CHARS
from tests.gateway.conftest import Gateway

ITEM: dict[str, Any] = {
    "answer": "Paris",
    "n": 3,
    "tags": ["x", {"y": "z"}],
    "none": None,
    "long": "x" * (MAX_TEXT_CHARS // 2),
}


def check(operation: str = "eq", **fields: Any) -> dict[str, Any]:
    return {
        "type": "string_check",
        "name": "check",
        "input": "{{ sample.output_text }}",
        "reference": "{{item.answer}}",
        "operation": operation,
        **fields,
    }


def alike(metric: str = "fuzzy_match") -> dict[str, Any]:
    grader = check()
    del grader["operation"]
    return {**grader, "type": "text_similarity", "name": "alike", "evaluation_metric": metric}


def multi(formula: str = "(exact + close) / 2", **graders: Any) -> dict[str, Any]:
    graders = graders or {"exact": check(), "close": alike()}
    return {"type": "multi", "name": "both", "graders": graders, "calculate_output": formula}


def run(gateway: Gateway, grader: Any, sample: str = "Paris") -> Any:
    graders = gateway.client(_strict_response_validation=True).fine_tuning.alpha.graders
    return graders.run(grader=grader, model_sample=sample, item=ITEM)


@pytest.mark.parametrize(
    ("operation", "sample", "reward"),
    [
        ("eq", "Paris", 1.0),
        ("eq", "paris", 0.0),
        ("ne", "Rome", 1.0),
        ("ne", "Paris", 0.0),
        ("like", "It is Paris.", 1.0),
        ("like", "It is paris.", 0.0),
        ("ilike", "IT IS PARIS", 1.0),
        ("ilike", "Rome", 0.0),
    ],
)
def test_a_string_check_is_one_or_nothing(
    gateway: Gateway, operation: str, sample: str, reward: float
) -> None:
    answer = run(gateway, check(operation), sample)
    assert answer.reward == reward
    assert (answer.metadata.name, answer.metadata.type) == ("check", "string_check")
    assert not any(answer.metadata.errors.to_dict().values())
    assert answer.sub_rewards == {}
    assert answer.metadata.execution_time >= 0


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{item.n}} of {{ item.tags }}", '3 of ["x", {"y": "z"}]'),
        ("{{item.tags.1.y}}{{item.none}}", "znull"),
        ("{{sample.output_json.a.0}}", "7"),
        ("{ {item.n} } {{{item.n}}}", "{ {item.n} } {3}"),
        ("no variables", "no variables"),
    ],
)
def test_variables_are_put_in(gateway: Gateway, template: str, text: str) -> None:
    assert run(gateway, check(input=template, reference=text), '{"a": [7]}').reward == 1.0


def test_what_is_put_in_is_not_read_for_variables(gateway: Gateway) -> None:
    sample = "{{ item.answer }}"
    assert run(gateway, check(), sample).reward == 0.0
    assert run(gateway, check("like", reference="item.answer"), sample).reward == 1.0


def test_likeness_is_a_part_of_one(gateway: Gateway) -> None:
    answer = run(gateway, alike(), "Pari")
    assert answer.reward == pytest.approx(8 / 9)
    assert answer.metadata.type == "text_similarity"


def test_a_multi_grader_is_its_formula_over_its_graders(gateway: Gateway) -> None:
    answer = run(gateway, multi(), "Pari")
    assert answer.sub_rewards == {"exact": 0.0, "close": pytest.approx(8 / 9)}
    assert answer.reward == pytest.approx(4 / 9)


@pytest.mark.parametrize(
    ("grader", "flag"),
    [
        (check(reference="{{item.nothing}}"), "invalid_variable_error"),
        (check(reference="{{item.tags.7}}"), "invalid_variable_error"),
        (check(reference="{{item.answer.x}}"), "invalid_variable_error"),
        (check(reference="{{sample.output_json}}"), "sample_parse_error"),
        (check(reference="{{item.long}}" * 3), "other_error"),
        (multi("1 / exact", exact=check("ne")), "other_error"),
        (multi("a + 1", a=check(reference="{{item.nothing}}")), "invalid_variable_error"),
    ],
)
def test_an_answer_that_cannot_be_graded_says_why(
    gateway: Gateway, grader: dict[str, Any], flag: str
) -> None:
    answer = run(gateway, grader)
    told = {name for name, value in answer.metadata.errors.to_dict().items() if value}
    assert told == {flag}


def test_a_grader_is_validated_as_it_is(gateway: Gateway) -> None:
    graders = gateway.client(_strict_response_validation=True).fine_tuning.alpha.graders
    for grader in (check(), alike("rouge_l")):
        validated = graders.validate(grader=grader)  # type: ignore[arg-type]
        assert validated.grader is not None
        assert validated.grader.to_dict() == grader
    raw = gateway.client().fine_tuning.alpha.graders.with_raw_response.validate(
        grader=multi()  # type: ignore[arg-type]
    )
    assert raw.http_response.json() == {"grader": multi()}


@pytest.mark.parametrize(
    ("grader", "param", "code", "said"),
    [
        (check("is"), "grader.operation", "invalid_value", "'ilike'"),
        (check(input="{{ secret }}"), "grader.input", "invalid_value", "{{ secret }}"),
        (check(input="{{item}}"), "grader.input", "invalid_value", "no variable"),
        (check(input="{{sample.tokens}}"), "grader.input", "invalid_value", "no variable"),
        (check(input="x" * 32_769), "grader.input", "string_above_max_length", "32768"),
        (check(more=1), "grader.more", "unknown_parameter", "more"),
        (check(type="guess"), "grader.type", "invalid_value", "guess"),
        ({"name": "x"}, "grader.type", "missing_required_parameter", "type"),
        (alike("cosine"), "grader.evaluation_metric", "unsupported_value", "embeddings"),
        (alike("meteor"), "grader.evaluation_metric", "unsupported_value", "WordNet"),
        (alike("best"), "grader.evaluation_metric", "invalid_value", "rouge_l"),
        (
            {"type": "python", "name": "p", "source": "def grade(sample, item): ..."},
            "grader.type",
            "unsupported_value",
            "Code of requests",
        ),
        (
            {"type": "score_model", "name": "s", "model": "m", "input": []},
            "grader.type",
            "unsupported_value",
            "no model",
        ),
        (
            multi(a={"type": "label_model", "name": "l"}),
            "grader.graders.a.type",
            "unsupported_value",
            "no model",
        ),
        (multi("exact + nobody"), "grader.calculate_output", "invalid_value", "nobody"),
        (multi("exact("), "grader.calculate_output", "invalid_value", "not a formula"),
        (multi("a", a=multi()), "grader.graders.a.type", "invalid_value", "multi"),
        (multi("1", **{f"g{n}": check() for n in range(9)}), "grader.graders", None, "8"),
    ],
)
def test_a_grader_that_could_never_run_is_refused_by_name(
    gateway: Gateway, grader: dict[str, Any], param: str, code: str | None, said: str
) -> None:
    graders = gateway.client().fine_tuning.alpha.graders
    for call in (
        lambda: graders.validate(grader=grader),  # type: ignore[arg-type]
        lambda: graders.run(grader=grader, model_sample="x"),  # type: ignore[arg-type]
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            call()
        assert caught.value.param == param
        assert code is None or caught.value.code == code
        assert said in caught.value.message


async def test_one_project_has_few_graders_run_at_once() -> None:
    runner = GraderRunner()
    blocked = threading.Event()
    runner._thread.submit(blocked.wait)
    request = RunGrader.model_validate({"grader": check(), "model_sample": "x", "item": ITEM})
    waiting = [asyncio.create_task(runner.run("mine", request)) for _ in range(MAX_OF_PROJECT)]
    await asyncio.sleep(0)
    with pytest.raises(RateLimited):
        await runner.run("mine", request)
    other = asyncio.create_task(runner.run("other", request))
    blocked.set()
    assert [done.reward for done in await asyncio.gather(*waiting, other)] == [0.0] * 9
    assert (await runner.run("mine", request)).reward == 0.0
    runner.close()
