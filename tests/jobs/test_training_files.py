from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.fine_tuning.hyperparameters import (
    SupervisedHyperparameters,
    auto_epochs,
    learning_rate,
    settle,
    split_batch,
)
from server.supervisor.validation import (
    InvalidFileError,
    validate_training_file,
    validate_validation_file,
)
from tests.jobs.stories import lines, rows

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def chat(*messages: object, **fields: object) -> dict[str, object]:
    return {"messages": list(messages), **fields}


BAD_EXAMPLES: dict[str, object] = {
    "no messages": {"text": "plain"},
    "nothing": {},
    "preference pair": {"input": {"messages": [USER]}, "preferred_output": [ANSWER]},
    "messages no array": {"messages": "hi"},
    "messages empty": chat(),
    "message no object": chat("hi", ANSWER),
    "role missing": chat({"content": "hi"}, ANSWER),
    "role unknown": chat({"role": "robot", "content": "hi"}, ANSWER),
    "role null": chat({"role": None, "content": "hi"}, ANSWER),
    "content missing": chat({"role": "user"}, ANSWER),
    "content number": chat({"role": "user", "content": 5}, ANSWER),
    "content empty array": chat({"role": "user", "content": []}, ANSWER),
    "part unknown": chat({"role": "user", "content": [{"type": "smell"}]}, ANSWER),
    "part without text": chat({"role": "user", "content": [{"type": "text"}]}, ANSWER),
    "image": chat(
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}],
        },
        ANSWER,
    ),
    "no assistant": chat(USER),
    "weights all zero": chat(USER, {**ANSWER, "weight": 0}),
    "weight half": chat(USER, {**ANSWER, "weight": 0.5}),
    "weight two": chat(USER, {**ANSWER, "weight": 2}),
    "weight boolean": chat(USER, {**ANSWER, "weight": True}),
    "weight on user": chat({**USER, "weight": 1}, ANSWER),
    "assistant says nothing": chat(USER, {"role": "assistant"}),
    "unknown message key": chat({**USER, "mood": "good"}, ANSWER),
    "unknown key": chat(USER, ANSWER, temperature=1),
    "tool not declared": chat(USER, {"role": "assistant", "tool_calls": [CALL]}),
    "tool arguments no json": chat(
        USER,
        {
            "role": "assistant",
            "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "{"}}],
        },
        tools=[TOOL],
    ),
    "tools no array": chat(USER, ANSWER, tools={"a": 1}),
    "tool without name": chat(USER, ANSWER, tools=[{"type": "function", "function": {}}]),
    "tool message without id": chat(USER, {"role": "tool", "content": "1"}, ANSWER),
    "parallel no boolean": chat(USER, ANSWER, parallel_tool_calls="yes"),
    "prompt only": {"prompt": "a"},
    "completion only": {"completion": "a"},
    "completion empty": {"prompt": "a", "completion": ""},
    "half a surrogate": chat(USER, {"role": "assistant", "content": "\ud800"}),
}


def write(folder: Path, content: bytes) -> Path:
    path = folder / "train.jsonl"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", BAD_EXAMPLES)
def test_a_bad_example_is_found_and_named(tmp_path: Path, kind: str) -> None:
    content = lines([*rows(11), BAD_EXAMPLES[kind], *rows(3)])
    with pytest.raises(InvalidFileError) as invalid:
        validate_training_file(write(tmp_path, content))
    error = invalid.value.error
    assert (error.code, error.param) == ("invalid_training_file", "training_file")
    assert error.message.startswith("The job failed due to an invalid training file. ")
    assert "12" in error.message
    assert "(1 bad line in all)" in error.message


def test_all_bad_lines_are_counted_and_the_first_twenty_told(tmp_path: Path) -> None:
    bad = chat({"content": "hi"}, ANSWER)
    with pytest.raises(InvalidFileError) as invalid:
        validate_training_file(write(tmp_path, lines([*rows(10), *[bad] * 30])))
    message = invalid.value.error.message
    assert "Example 11, message 1 Discriminator 'role' is missing in value" in message
    assert message.count("Example ") == 20
    assert message.endswith("; and 10 more (30 bad lines in all)")


def test_a_line_that_is_not_json_is_told_as_openai_does(tmp_path: Path) -> None:
    content = lines(rows(10)) + b'{"messages": [}\n'
    with pytest.raises(InvalidFileError) as invalid:
        validate_training_file(write(tmp_path, content))
    assert "Example 11 cannot be parsed. Error: line contains invalid json: " in str(invalid.value)
    assert "(line 11)" in str(invalid.value)


def test_users_text_is_not_quoted(tmp_path: Path) -> None:
    secret = chat({"role": "user", "content": "my secret", "my secret key": 1}, ANSWER)
    with pytest.raises(InvalidFileError) as invalid:
        validate_training_file(write(tmp_path, lines([*rows(10), secret])))
    assert "secret" not in str(invalid.value)


def test_ten_examples_are_needed_for_training_only(tmp_path: Path) -> None:
    path = write(tmp_path, lines(rows(9)))
    with pytest.raises(InvalidFileError) as invalid:
        validate_training_file(path)
    error = invalid.value.error
    assert (error.code, error.param) == ("invalid_n_examples", "training_file")
    assert error.message == "Training file has 9 example(s), but must have at least 10 examples"
    assert validate_validation_file(path).num_examples == 9


def test_a_bad_validation_file_has_its_own_code(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError) as invalid:
        validate_validation_file(write(tmp_path, lines([{}])))
    error = invalid.value.error
    assert (error.code, error.param) == ("invalid_validation_file", "validation_file")


def test_kinds_of_examples_are_not_mixed(tmp_path: Path) -> None:
    mixed = [*rows(10), {"prompt": "a", "completion": "b"}]
    with pytest.raises(InvalidFileError, match="mixes"):
        validate_training_file(write(tmp_path, lines(mixed)))


def test_good_examples_of_many_shapes_are_taken(tmp_path: Path) -> None:
    good = [
        *rows(8),
        chat({"role": "system", "content": "be"}, USER, ANSWER),
        chat(USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1}),
        chat({"role": "user", "content": [{"type": "text", "text": "hi"}]}, ANSWER),
        chat(
            USER,
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "1"},
            ANSWER,
            tools=[TOOL],
        ),
    ]
    content = lines(good).replace(b"\n", b"\r\n") + b"\n"
    assert validate_training_file(write(tmp_path, content)).num_examples == 12
    pairs = [{"prompt": f"{n}", "completion": "x"} for n in range(10)]
    assert validate_training_file(write(tmp_path, lines(pairs))).num_examples == 10


@pytest.mark.parametrize(
    ("num_examples", "epochs"),
    [(10, 10), (25, 4), (34, 3), (50, 3), (8_333, 3), (10_000, 2), (30_000, 1), (10**6, 1)],
)
def test_automatic_epochs_follow_the_number_of_examples(num_examples: int, epochs: int) -> None:
    assert auto_epochs(num_examples) == epochs


def test_auto_is_settled_and_numbers_are_left() -> None:
    settled = settle(SupervisedHyperparameters(), 5000)
    assert (settled.n_epochs, settled.batch_size, settled.learning_rate_multiplier) == (3, 10, 1.0)
    given = SupervisedHyperparameters(n_epochs=7, batch_size=9, learning_rate_multiplier=0.5)
    assert settle(given, 5000) == given


def test_the_rate_follows_multiplier_width_and_kind() -> None:
    lora = settle(SupervisedHyperparameters(learning_rate_multiplier=2.0), 100)
    full = settle(SupervisedHyperparameters.model_validate({"finetuning_type": "full"}), 100)
    assert learning_rate(lora, 2000) == pytest.approx(1e-3)
    assert learning_rate(full, 2000) == pytest.approx(5e-5)
    assert learning_rate(full, 250) == pytest.approx(5e-5 * 8**0.775)
    assert learning_rate(full, None) == learning_rate(full, 2000)


@pytest.mark.parametrize("batch_size", range(1, 257))
def test_a_batch_is_split_exactly(batch_size: int) -> None:
    at_once, accumulation = split_batch(batch_size)
    assert at_once * accumulation == batch_size
    assert 1 <= at_once <= 16


def test_lines_are_what_the_file_has() -> None:
    assert [json.loads(line) for line in lines(rows(2)).splitlines()] == rows(2)
