"""Every key of LLaMA-Factory's has a state, and its examples are translated as the page says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.errors import InvalidRequest
from server.llamafactory.keys import READ_IN, TABLE, Refused
from server.llamafactory.page import PAGE, page
from server.llamafactory.translation import State, schema_of, stages, translate
from tests.llamafactory.examples import RESULTS, read_examples, results
from workers.contract.parameters import Stage, settable

NAMES = (Path(__file__).parent / "names.txt").read_text().split()
"""Of LLaMA-Factory 0.9.5's arguments, all there are."""


def state(key: str, value: Any, **others: Any) -> tuple[State, str]:
    verdict = translate({**others, key: value}).verdicts[key]
    assert (verdict.error is not None) == (verdict.state is State.REFUSED)
    return verdict.state, verdict.told


def test_no_key_of_llama_factory_is_without_a_state() -> None:
    assert len(NAMES) == 357
    assert not set(NAMES) - settable().keys() - TABLE.keys()
    assert not settable().keys() & TABLE.keys()
    assert set(READ_IN) <= set(NAMES)
    others = set(NAMES) - {"stage", "finetuning_type"}
    assert all(verdict.told for verdict in translate(dict.fromkeys(others, 1)).verdicts.values())


def test_the_page_of_keys_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m server.llamafactory.page"


def test_the_table_of_examples_is_current() -> None:
    assert RESULTS.read_text(encoding="utf-8") == results(), (
        "run: python -m tests.llamafactory.examples"
    )


def test_what_is_declared_is_honoured_without_another_word() -> None:
    for name, declared in settable(Stage.SFT).items():
        if name in READ_IN or declared.default is None or name in ("bf16", "fp16"):
            continue
        assert state(name, declared.default)[0] is not State.REFUSED, name
    assert state("lora_rank", 16) == (State.HONOURED, "lora_rank")


@pytest.mark.parametrize("name", list(read_examples()))
def test_each_key_of_an_example_has_its_verdict(name: str) -> None:
    config = read_examples()[name]
    made = translate(config)
    assert made.verdicts.keys() >= config.keys()
    refused = [v for v in made.verdicts.values() if v.state is State.REFUSED]
    if refused:
        assert isinstance(made.refusal, InvalidRequest)
        assert made.refusal.param == f"llamafactory.{refused[0].key}"
    else:
        schema_of(made).model_validate(made.hyperparameters)
    foreign = any(
        key.startswith(("use_kt", "tensor_model_parallel", "export_dir")) for key in config
    )
    assert bool(refused) or not foreign


def test_values_are_read_as_llama_factory_reads_them() -> None:
    made = translate(
        {
            "learning_rate": "2e-5",
            "lora_rank": "16",
            "save_steps": 500.0,
            "bf16": "true",
            "lora_target": ["q_proj", "v_proj"],
            "max_steps": -1,
            "num_train_epochs": 2,
            "dataset": ["a", "b"],
            "eval_dataset": "c, d",
            "neat_packing": True,
        }
    )
    assert made.refusal is None
    assert made.hyperparameters == {
        "learning_rate": 2e-5,
        "lora_rank": 16,
        "save_steps": 500,
        "bf16": True,
        "lora_target": "q_proj,v_proj",
        "num_train_epochs": 2,
        "packing": True,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
    }
    assert (made.datasets, made.eval_datasets) == (("a", "b"), ("c", "d"))
    assert made.dropped() == {"max_steps": "asks for no limit"}


def test_a_key_is_dropped_where_llama_factory_does_not_read_it() -> None:
    full = {"finetuning_type": "full"}
    assert state("lora_rank", 8, **full)[0] is State.DROPPED
    assert state("use_dora", True, **full)[0] is State.DROPPED
    assert state("pref_loss", "simpo")[0] is State.DROPPED
    assert state("pref_loss", "simpo", stage="dpo")[0] is State.HONOURED
    assert state("freeze_trainable_layers", 2)[0] is State.DROPPED
    assert state("packing", True, stage="dpo")[0] is State.REFUSED
    assert state("packing", False, stage="dpo")[0] is State.DROPPED
    assert state("save_steps", 500, save_strategy="epoch")[0] is State.DROPPED
    assert state("lora_target", "all", adapter_name_or_path="ft:x")[0] is State.DROPPED
    assert state("lora_dropout", 0.1, adapter_name_or_path="ft:x")[0] is State.HONOURED


def test_what_asks_for_nothing_is_dropped() -> None:
    declared = settable()
    refused = {
        key: treatment
        for key, treatment in TABLE.items()
        if isinstance(treatment, Refused) and key not in declared
    }
    for values in (
        dict.fromkeys(refused),
        {key: False for key, each in refused.items() if True not in each.plain},
        {key: value for key, each in refused.items() for value in each.plain},
    ):
        made = translate(values)
        assert made.dropped().keys() == values.keys()
    assert state("report_to", "none")[0] is State.DROPPED
    assert state("report_to", "wandb")[0] is State.REFUSED
    assert state("no_such_key", None)[0] is State.REFUSED


@pytest.mark.parametrize(
    "key",
    [
        "enable_thinking",
        "ignore_pad_token_for_loss",
        "freeze_vision_tower",
        "freeze_multi_modal_projector",
    ],
)
def test_false_is_refused_where_a_job_does_what_true_asks_for(key: str) -> None:
    assert state(key, False)[0] is State.REFUSED
    assert state(key, True)[0] is State.DROPPED


def test_a_loss_that_is_no_number_is_no_loss_in_either_way() -> None:
    assert state("logging_nan_inf_filter", False)[0] is State.DROPPED
    assert state("logging_nan_inf_filter", True)[0] is State.DROPPED


def test_of_packing_and_neat_packing_the_one_that_is_on_holds_in_any_order() -> None:
    for first, second in (("packing", "neat_packing"), ("neat_packing", "packing")):
        on = {"packing": True, "neat_packing": False}
        made = translate({key: on[key] for key in (first, second)})
        assert made.hyperparameters["packing"] is True
        assert made.honours("packing")
        assert made.dropped() == {"neat_packing": "asks for what a job does anyway"}
        off = {"packing": False, "neat_packing": True}
        made = translate({key: off[key] for key in (first, second)})
        assert made.hyperparameters["packing"] is True
        assert made.honours("neat_packing")
        assert made.dropped() == {"packing": "'neat_packing' stands in its place"}


def test_pretraining_packs_unless_it_is_told_not_to() -> None:
    assert translate({"stage": "pt"}).hyperparameters["packing"] is True
    assert translate({"stage": "pt", "packing": None}).hyperparameters["packing"] is True
    assert translate({"stage": "pt", "packing": False}).hyperparameters["packing"] is False
    assert "packing" not in translate({"stage": "sft"}).hyperparameters


def test_a_parameter_of_another_pref_loss_is_refused_where_it_would_say_something() -> None:
    smoothing, gamma = "dpo_label_smoothing", "simpo_gamma"
    dpo, simpo = {"stage": "dpo"}, {"stage": "dpo", "pref_loss": "simpo"}
    for value in (0.5, 0.7):
        assert state(gamma, value, **dpo)[0] is State.DROPPED
        assert state(gamma, value, **simpo)[0] is State.HONOURED
    assert state(smoothing, 0.0, **simpo)[0] is State.DROPPED
    assert state(smoothing, 0.1, **dpo)[0] is State.HONOURED
    made = translate({**simpo, smoothing: 0.1})
    assert made.refusal is not None
    assert made.refusal.param == "llamafactory.dpo_label_smoothing"
    assert gamma not in translate({**dpo, gamma: 0.5}).hyperparameters


def test_a_plain_value_is_plain_as_text_too() -> None:
    assert state("loraplus_lr_embedding", "1e-6")[0] is State.DROPPED
    assert state("loraplus_lr_embedding", "1e-5")[0] is State.REFUSED


def test_steps_of_evaluations_are_read_beside_their_strategy_alone() -> None:
    assert state("eval_steps", 5)[0] is State.DROPPED
    assert state("eval_steps", 5, eval_strategy="steps")[0] is State.HONOURED


def test_each_stage_has_the_first_method_of_its_name() -> None:
    assert {"sft": "supervised", "dpo": "dpo"}.items() <= stages().items()
    for stage, method in stages().items():
        assert translate({"stage": stage}).method == method
    assert translate({}).method == "supervised"
    for stage in ("grpo", "nothing", 7, ["sft"]):
        assert translate({"stage": stage}).verdicts["stage"].state is State.REFUSED


def test_a_few_unknown_keys_alone_are_compared_with_all_there_are() -> None:
    verdicts = translate({f"lora_rnk{n}": 1 for n in range(40)}).verdicts.values()
    assert sum("Did you mean 'lora_rank'?" in verdict.told for verdict in verdicts) == 4
