"""Defaults for thinking that a chat format cannot honour are refused before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from server.cli.main import cli
from server.config import Config
from server.models.chat_formats import check_chat_formats
from templates.format import FormatError
from templates.own_templates import read_own_templates
from tests.templates.tokenizers_for_tests import byte_level_tokenizer

BUNDLED = Path(__file__).parents[2] / "deploy" / "model" / "tuneyard-mini"
LIMITED = {"thinking_budget": 64}


def check(**entry: Any) -> None:
    check_chat_formats(
        Config.model_validate({"models": [{"id": "m", "path": str(BUNDLED), **entry}]})
    )


@pytest.mark.parametrize(
    ("template", "generation", "field"),
    [
        ("chatml", LIMITED, "thinking_budget"),
        (None, LIMITED, "thinking_budget"),
        ("jinja", {"enable_thinking": True}, "enable_thinking"),
        ("chatml", {"reasoning_effort": "high"}, "reasoning_effort"),
        ("gpt_oss", {"reasoning_effort": "max"}, "reasoning_effort"),
    ],
)
def test_a_default_that_the_format_cannot_honour_is_refused_by_name(
    template: str | None, generation: dict[str, Any], field: str
) -> None:
    with pytest.raises(FormatError, match=f"^models: m: generation.{field}: ") as refused:
        check(template=template, generation=generation)
    assert refused.value.param == field


@pytest.mark.parametrize(
    "entry",
    [
        {"template": "qwen3", "generation": LIMITED | {"enable_thinking": True}},
        {"template": "gpt_oss", "generation": {"reasoning_effort": "high"}},
        {"template": "chatml", "generation": {"enable_thinking": False}},
        {"hub": "huggingface", "path": "maker/thinker", "generation": LIMITED},
    ],
)
def test_what_can_be_honoured_or_not_yet_be_known_passes(entry: dict[str, Any]) -> None:
    check(**entry)


def test_check_says_it_as_serve_does(tmp_path: Path) -> None:
    config = tmp_path / "tuneyard.yaml"
    config.write_text(f"models: [{{id: m, path: {BUNDLED}, generation: {{thinking_budget: 9}}}}]\n")
    result = CliRunner().invoke(cli, ["check", "-c", str(config)])
    assert result.exit_code == 2
    assert "models: m: generation.thinking_budget: This model's chat format has no" in result.output


@pytest.mark.parametrize("several", [False, True])
def test_a_directory_s_templates_are_those_that_transformers_reads(
    tmp_path: Path, several: bool
) -> None:
    tokenizer = byte_level_tokenizer()
    templates = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    tokenizer.chat_template = templates if several else templates["default"]
    for jinja_files in (True, False):
        folder = tmp_path / str(jinja_files)
        tokenizer.save_pretrained(folder, save_jinja_files=jinja_files)
        read = AutoTokenizer.from_pretrained(folder).chat_template
        assert read_own_templates(folder) == ({"default": read} if isinstance(read, str) else read)
    assert read_own_templates(tmp_path) == {}
