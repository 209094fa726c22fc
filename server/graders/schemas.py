"""Bodies of `/v1/fine_tuning/alpha/graders/...`.

What a grader says that it could never be run with (a variable there is not, a metric that cannot be
had, a formula that is none) is refused with the body.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from server.graders.formula import Formula, FormulaError
from server.graders.similarity import Metric, metric_fault
from server.graders.template import MAX_TEXT_CHARS, TemplateError, check_template
from server.wire import RequestBody, ResponseBody

MAX_GRADERS = 8
"""Of a multi grader."""

_UNSERVED = {
    "python": "Code of requests is not run on this server.",
    "score_model": "Grading asks no model on this server; send the prompt to /v1/chat/completions.",
    "label_model": "Grading asks no model on this server; send the prompt to /v1/chat/completions "
    "with 'guided_choice'.",
}


def _unsupported(message: str) -> PydanticCustomError:
    return PydanticCustomError("unsupported_value", "{reason}", {"reason": message})


def _invalid(message: str) -> PydanticCustomError:
    return PydanticCustomError("invalid_value", "{reason}", {"reason": message})


def _checked_template(text: str) -> str:
    try:
        check_template(text)
    except TemplateError as error:
        raise _invalid(str(error)) from None
    return text


Name = Annotated[str, Field(min_length=1, max_length=256)]
TemplateText = Annotated[str, Field(max_length=MAX_TEXT_CHARS), AfterValidator(_checked_template)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


class StringCheck(RequestBody):
    type: Literal["string_check"]
    name: Name
    input: TemplateText
    reference: TemplateText
    operation: Literal["eq", "ne", "like", "ilike"]
    """`like` and `ilike`: whether the input contains the reference."""


class TextSimilarity(RequestBody):
    type: Literal["text_similarity"]
    name: Name
    input: TemplateText
    reference: TemplateText
    evaluation_metric: Annotated[Metric, Field(strict=False)]

    @field_validator("evaluation_metric")
    @classmethod
    def _metric_is_there(cls, metric: Metric) -> Metric:
        if (fault := metric_fault(metric)) is not None:
            raise _unsupported(f"'{metric}' is not available. {fault}")
        return metric


class Unserved(RequestBody):
    """OpenAI's other graders, refused by name."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["python", "score_model", "label_model"]

    @field_validator("type")
    @classmethod
    def _is_refused(cls, kind: str) -> str:
        raise _unsupported(f"'{kind}' is not available. {_UNSERVED[kind]}")


SingleGrader = Annotated[StringCheck | TextSimilarity | Unserved, Field(discriminator="type")]


class Multi(RequestBody):
    type: Literal["multi"]
    name: Name
    graders: Annotated[dict[Variable, SingleGrader], Field(min_length=1, max_length=MAX_GRADERS)]
    """By the names that the formula calls them."""
    calculate_output: str

    @field_validator("calculate_output")
    @classmethod
    def _is_a_formula(cls, formula: str, info: ValidationInfo) -> str:
        if "graders" in info.data:
            try:
                Formula(formula, info.data["graders"])
            except FormulaError as error:
                raise _invalid(str(error)) from None
        return formula


Grader = Annotated[StringCheck | TextSimilarity | Multi | Unserved, Field(discriminator="type")]


class RunGrader(RequestBody):
    grader: Grader
    model_sample: Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
    item: dict[str, Any] | None = None


class ValidateGrader(RequestBody):
    grader: Grader


class ValidatedGrader(ResponseBody):
    grader: dict[str, Any]


class GraderErrors(ResponseBody):
    formula_parse_error: bool = False
    sample_parse_error: bool = False
    """`sample.output_json` of a sample that is no JSON."""
    truncated_observation_error: bool = False
    unresponsive_reward_error: bool = False
    invalid_variable_error: bool = False
    """The item has no such field."""
    other_error: bool = False
    """A text is too long with its variables in, or the formula has no value."""
    python_grader_server_error: bool = False
    python_grader_server_error_type: str | None = None
    python_grader_runtime_error: bool = False
    python_grader_runtime_error_details: str | None = None
    model_grader_server_error: bool = False
    model_grader_refusal_error: bool = False
    model_grader_parse_error: bool = False
    model_grader_server_error_details: str | None = None


class GraderMetadata(ResponseBody):
    name: str
    type: str
    errors: GraderErrors
    execution_time: float
    """Seconds."""
    scores: dict[str, float]
    token_usage: int | None = None
    sampled_model_name: str | None = None


class GraderRun(ResponseBody):
    reward: float
    metadata: GraderMetadata
    sub_rewards: dict[str, float]
    model_grader_token_usage_per_model: dict[str, int]
