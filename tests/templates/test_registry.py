"""Finding formats: an operator's files, the models' table, the page, comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

from templates.comparison import compare
from templates.conversation import Conversation
from templates.format import FormatError
from templates.models import model_table, template_of_model
from templates.page import PAGE, page
from templates.registry import built_in_families, open_format, read_folders
from templates.tokenization import Encoder, describe_tokenizer
from tests.templates.conversations import CONVERSATIONS
from tests.templates.tokenizers_for_tests import byte_level_tokenizer

TOKENIZER = byte_level_tokenizer()
THOUGHTS = (Path(__file__).parent / "data" / "thoughts.jinja").read_text()
INFO = describe_tokenizer(TOKENIZER, {"default": THOUGHTS})


def rendered(name: str, folder: Path, conversation: Conversation) -> str:
    segments = open_format(name, INFO, (folder,)).render(conversation).segments
    return "".join(segment.text for segment in segments)


def test_an_operators_yaml_file_adds_a_template(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        'mine:\n  like: chatml\n  default_system: "Be kind."\n'
        'other:\n  user: "Q: {{content}}\\nA:"\n  assistant: ["{{content}}", {special: eos}]\n'
    )
    single = CONVERSATIONS["single"]
    assert rendered("mine", tmp_path, single).startswith("<|im_start|>system\nBe kind.<|im_end|>")
    assert rendered("other", tmp_path, single) == "Q: How are you?\nA:"


def test_an_operators_jinja_file_adds_a_template(tmp_path: Path) -> None:
    (tmp_path / "loud.jinja").write_text("{{ messages[0].content | upper }}!")
    assert rendered("loud", tmp_path, CONVERSATIONS["single"]) == "HOW ARE YOU?!"


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("a:\n  user: x\n", "2:9", "lacks {{content}}"),
        ("a:\n  assistant: '{{content}}'\n", "1:1", "has no 'user'"),
        ("a:\n  like: nothing\n", "2:9", "no template 'nothing'"),
        ("a:\n  like: chatml\n  usr: '{{content}}'\n", "3:3", "unknown field 'usr'"),
        ("a:\n  like: chatml\n  eos: maybe\n", "3:8", "must be one of: written"),
        ("a:\n  like: chatml\n  stop: x\n", "3:9", "must be a list of texts"),
        ("a:\n  like: chatml\n  prefix: [{special: pad}]\n", "3:22", "must be one of: bos, eos"),
        ("a:\n  like: chatml\n  media: {smell: x}\n", "3:11", "unknown kind of media"),
        ("a:\n  like: chatml\n  dialect: klingon\n", "3:12", "no tool-call dialect 'klingon'"),
        ("a:\n  like: chatml\n   eos: written\n", "3:", ""),
        ("a: 1\n", "1:4", "must be a mapping"),
        ("a:\n  like: chatml\na:\n  like: chatml\n", "3:1", "defined twice"),
    ],
)
def test_a_wrong_yaml_file_is_refused_with_its_line(
    tmp_path: Path, text: str, place: str, message: str
) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(FormatError) as caught:
        read_folders((tmp_path,))
    assert "wrong.yaml" in str(caught.value)
    assert f":{place}" in str(caught.value)
    assert message in str(caught.value)


def test_a_wrong_jinja_file_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "wrong.jinja").write_text("{% if x %}\n\n{% endfor %}")
    with pytest.raises(FormatError, match=r"wrong\.jinja:3: "):
        read_folders((tmp_path,))
    with pytest.raises(FormatError, match="does not exist"):
        read_folders((tmp_path / "missing",))


def test_the_models_own_templates_are_opened_by_name() -> None:
    info = describe_tokenizer(TOKENIZER, {"default": THOUGHTS, "rag": "{{ messages[0].content }}"})
    segments = open_format("jinja:rag", info).render(CONVERSATIONS["single"]).segments
    assert [segment.text for segment in segments] == ["How are you?"]
    with pytest.raises(FormatError, match="no chat template named 'other'"):
        open_format("jinja:other", info)
    with pytest.raises(FormatError, match="none is the default"):
        open_format(None, describe_tokenizer(TOKENIZER, {"rag": THOUGHTS}))


def test_comparison_shows_the_first_token_that_differs() -> None:
    encoder, own = Encoder(TOKENIZER), open_format(None, INFO)
    assert compare(own, own, encoder).same
    report = compare(open_format("qwen3", INFO), own, encoder)
    assert [difference.conversation for difference in report.differences] == [
        "tools",
        "tools without system message",
        "tool result",
    ]
    difference = report.differences[1]
    assert difference.token_index == 3
    assert "token 3" in str(difference)
    wrong = compare(open_format("vicuna", INFO), own, encoder)
    assert len(wrong.differences) == len(wrong.compared)


def test_models_are_looked_up_by_exact_name() -> None:
    found = template_of_model("Qwen/Qwen3-0.6B")
    assert found is not None
    assert (found.template, found.is_chat) == ("qwen3", True)
    assert template_of_model("Qwen/Qwen3-0.6B-mine") is None
    assert template_of_model("qwen3") is None


def test_every_template_of_the_models_table_exists() -> None:
    assert {entry.template for entry in model_table().values()} <= built_in_families().keys()


def test_the_page_of_templates_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m templates.page"
