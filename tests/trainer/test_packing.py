"""Examples are packed only where the model keeps them apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.architectures.families import tiny_config
from tests.architectures.subject import Subject
from tests.trainer.conftest import Workspace, build_model, train
from workers.contract.training import Completed, Started, TrainFailed
from workers.models.isolation import find_mixing


def _mixing(model: Any) -> str | None:
    def forward(ids: Tensor, positions: Tensor) -> Tensor:
        return model(input_ids=ids, position_ids=positions, use_cache=False).logits

    return find_mixing(model, forward, 448, model.dtype)


def _model(family: str) -> Any:
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(tiny_config(family), dtype=torch.float32)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data.normal_(0, 0.15)
    return model


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "qwen3_moe", "phi3", "cohere2"])
def test_a_model_with_masks_by_positions_keeps_examples_apart(family: str) -> None:
    model = _model(family).train()
    for dtype in (torch.float32, torch.bfloat16):
        assert _mixing(model.to(dtype)) is None
    assert model.training


@pytest.mark.parametrize(
    "family", ["qwen3_next", "mamba2", "lfm2", "jamba", "gpt_oss", "bloom", "opt", "mpt"]
)
def test_a_model_that_looks_past_an_example_is_found(family: str) -> None:
    model = _model(family)
    for dtype in (torch.float32, torch.bfloat16):
        assert _mixing(model.to(dtype)) is not None


def test_a_window_is_crossed_however_wide_it_is() -> None:
    """A mask that is right within the window and wrong beyond shows in the narrow one."""
    model = _model("llama4_text")
    model.config.attention_chunk_size = 8192
    assert _mixing(model) is None
    assert model.config.attention_chunk_size == 8192


def test_a_row_of_two_has_the_logits_of_each_alone() -> None:
    """What the proof stands for, at other lengths."""
    model = _model("qwen3").eval()
    examples = [list(range(3, 40)), list(range(300, 350)), list(range(90, 101))]
    ids = torch.tensor([[token for example in examples for token in example]])
    places = torch.tensor([[n for example in examples for n in range(len(example))]])
    with torch.no_grad():
        packed = model(input_ids=ids, position_ids=places, use_cache=False).logits[0]
        alone = [model(input_ids=torch.tensor([example])).logits[0] for example in examples]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=0, atol=1e-4)


def test_a_job_that_would_mix_its_examples_is_refused_by_name(tmp_path: Path) -> None:
    subject = Subject("lfm2", tmp_path)
    failed = subject.train(packing=True)
    assert isinstance(failed, TrainFailed)
    assert (failed.code, failed.param) == ("invalid_hyperparameters", "packing")
    assert failed.message == (
        "'packing' cannot be used with this model (lfm2): an example changes the logits of "
        "the one behind it. Set packing to false."
    )
    assert isinstance(subject.train(), Completed)


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_a_job_on_a_model_that_keeps_them_apart_packs(
    workspace: Workspace, compute_dtype: str
) -> None:
    spec = workspace.spec(
        data={"packing": True, "cutoff_len": 256},
        model={"compute_dtype": compute_dtype},
        per_device_train_batch_size=1,
    )
    events = train(spec)
    assert isinstance(events[-1], Completed), events[-1]
    started = next(event for event in events if isinstance(event, Started))
    assert started.total_steps < 2 * started.num_examples


def test_dropout_does_not_look_like_mixing() -> None:
    model = build_model(448, attention_dropout=0.5).train()
    assert _mixing(model) is None
