"""A named template is held against the bundled model's own, with its real tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workers.engine.spec import EngineSpec, SpecError
from workers.engine.template_check import template_difference
from workers.engine.text.pretrained import PretrainedVocabulary, load_vocabulary

BUNDLED = Path(__file__).parents[2] / "deploy" / "model" / "tuneyard-mini"


@pytest.fixture(scope="module")
def vocabulary() -> PretrainedVocabulary:
    return load_vocabulary(BUNDLED)


def difference(vocabulary: PretrainedVocabulary, **settings: Any) -> str | None:
    spec = {"model_id": "m", "backend": "hf", "listen": "unix:/x", "model_path": str(BUNDLED)}
    return template_difference(EngineSpec(**spec, **settings), vocabulary)


@pytest.mark.parametrize("template", [None, "jinja"])
def test_the_model_s_own_template_is_not_compared(
    vocabulary: PretrainedVocabulary, template: str | None
) -> None:
    assert difference(vocabulary, template=template) is None


def test_a_wrong_template_differs_from_the_first_token(vocabulary: PretrainedVocabulary) -> None:
    found = difference(vocabulary, template="llama3")
    assert found is not None
    assert found.startswith("The template 'llama3' differs from the model's own in 7 of 7 sample")
    assert "conversation 'one turn' differs from token 0 on" in found
    assert "has '<|im_start|>' there" in found
    assert "<|im_start|>user" in found
    assert "<|start_header" in found


def test_a_related_template_differs_where_it_does(vocabulary: PretrainedVocabulary) -> None:
    found = difference(vocabulary, template="qwen")
    assert found is not None
    assert "conversation 'one turn' differs" in found
    assert "You are Qwen" in found


def test_an_operator_s_copy_of_the_template_is_the_same(
    vocabulary: PretrainedVocabulary, tmp_path: Path
) -> None:
    (tmp_path / "copy.jinja").write_text(vocabulary.names.chat_templates["default"])
    assert difference(vocabulary, template="copy", templates=(str(tmp_path),)) is None


def test_a_template_that_there_is_not_is_refused(vocabulary: PretrainedVocabulary) -> None:
    with pytest.raises(SpecError, match="no chat format named 'qwen33'"):
        difference(vocabulary, template="qwen33")
