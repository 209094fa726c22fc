"""Parameters are declared once: what wire, document, page and trainer read of them."""

from __future__ import annotations

from typing import Any

import msgspec
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from server.fine_tuning.hyperparameters import SupervisedHyperparameters, advice
from tests.jobs.live import Service
from tests.jobs.stories import create
from workers.contract.parameters import GROUPS, FinetuningArguments, Stage, parameters, settable
from workers.contract.parameters_page import PAGE, page


def test_every_declaration_has_a_sentence_and_a_name_of_its_own() -> None:
    assert len(parameters()) == sum(len(msgspec.structs.fields(group)) for group in GROUPS)
    for declared in parameters().values():
        assert declared.doc.endswith("."), declared.name


def test_the_page_of_parameters_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), (
        "run: python -m workers.contract.parameters_page"
    )


def test_the_wire_has_the_parameters_of_its_stage_with_their_limits() -> None:
    schema = SupervisedHyperparameters.model_json_schema()["properties"]
    assert settable(Stage.SFT).keys() <= schema.keys()
    assert (schema["lora_rank"]["minimum"], schema["lora_rank"]["maximum"]) == (1, 512)
    assert schema["lora_rank"]["description"] == settable()["lora_rank"].doc


_NUMBERS = st.one_of(st.integers(-3, 600), st.floats(-2, 3, allow_nan=False))


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(["lora_rank", "lora_alpha", "lora_dropout", "lora_target"]),
    value=st.one_of(_NUMBERS, st.booleans(), st.none(), st.sampled_from(["all", "a, b", "-", ""])),
)
def test_the_wire_takes_what_the_trainer_takes(name: str, value: Any) -> None:
    def taken_by_wire() -> bool:
        try:
            SupervisedHyperparameters.model_validate({name: value})
        except ValidationError:
            return False
        return True

    def taken_by_trainer() -> bool:
        content = msgspec.json.encode({name: value})
        try:
            msgspec.json.decode(content, type=FinetuningArguments)
        except msgspec.ValidationError:
            return False
        return True

    is_whole = isinstance(value, float) and value.is_integer()
    if not is_whole:  # JSON does not tell 8.0 from 8; the wire does
        assert taken_by_wire() == taken_by_trainer()


def test_what_is_meant_is_told(service: Service) -> None:
    client = service.gateway.client()
    for name, said in (
        ("lora_rnk", "Did you mean 'lora_rank'?"),
        ("n_epoch", "Did you mean 'n_epochs'?"),
        ("colour_of_the_sky", "Unknown parameter"),
    ):
        with pytest.raises(openai.BadRequestError, match=said) as error:
            create(client, hyperparameters={name: 3})
        assert error.value.param == f"method.supervised.hyperparameters.{name}"
        assert error.value.code == "unknown_parameter"
    with pytest.raises(openai.BadRequestError, match="Unknown parameter") as error:
        create(client, hyperparameters={"x" * 100_000: 3})
    assert error.value.param == "method.supervised.hyperparameters." + "x" * 64
    assert len(error.value.message) < 1000
    with pytest.raises(openai.BadRequestError, match="belongs to finetuning_type lora") as error:
        create(client, hyperparameters={"finetuning_type": "full", "lora_rank": 4})
    assert error.value.param == "method.supervised.hyperparameters.lora_rank"
    assert advice("zzz") is None
