from __future__ import annotations

import json
import tracemalloc
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
    ChatRows,
    InvalidFileError,
    validate_training_file,
    validate_validation_file,
)
from templates.format import TokenizerInfo
from templates.registry import open_format
from templates.training import MaskOptions
from tests.jobs.stories import lines, rows

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}

CHATS = ChatRows(lambda: open_format("chatml", TokenizerInfo()), MaskOptions())
MANY_DIGITS = '{"messages": [{"role": "user", "content": %s}]}' % ("9" * 5000)


def chat(*messages: object, **fields: object) -> dict[str, object]:
    return {"messages": list(messages), **fields}


BAD_EXAMPLES: dict[str, object] = {
    "no messages": {"question": "plain"},
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
    "user speaks last": chat(USER, ANSWER, USER),
    "orphan tool answer": chat(
        USER, {"role": "tool", "tool_call_id": "c1", "content": "1"}, ANSWER
    ),
    "wrong tool_call_id": chat(
        USER,
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c2", "content": "1"},
        ANSWER,
        tools=[TOOL],
    ),
    "call left open": chat(
        USER, {"role": "assistant", "tool_calls": [CALL]}, USER, ANSWER, tools=[TOOL]
    ),
    "tools with functions": chat(USER, ANSWER, tools=[TOOL], functions=[TOOL["function"]]),
    "function_call with tool_calls": chat(
        USER,
        {
            "role": "assistant",
            "tool_calls": [CALL],
            "function_call": {"name": "f", "arguments": "{}"},
        },
        tools=[TOOL],
    ),
    "thought in a format without": chat(USER, {**ANSWER, "reasoning_content": "hm"}),
    "assistant speaks first": chat(ANSWER),
    "pictures column": chat(USER, ANSWER, images=["a.png"]),
    "system column": chat(USER, ANSWER, system="Be kind."),
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
        validate_training_file(write(tmp_path, content), CHATS)
    error = invalid.value.error
    assert (error.code, error.param) == ("invalid_training_file", "training_file")
    assert error.message.startswith("The job failed due to an invalid training file. ")
    assert "12" in error.message
    assert "(1 bad line in all)" in error.message


def refused(folder: Path, content: bytes) -> str:
    with pytest.raises(InvalidFileError) as invalid:
        validate_training_file(write(folder, content), CHATS)
    assert invalid.value.error.code == "invalid_training_file"
    return invalid.value.error.message.removeprefix(
        "The job failed due to an invalid training file. "
    )


def test_equal_faults_are_told_once_with_the_first_twenty_lines(tmp_path: Path) -> None:
    bad = chat({"content": "hi"}, ANSWER)
    message = refused(tmp_path, lines([*rows(10), *[bad] * 30, chat(USER)]))
    numbers = ", ".join(map(str, range(11, 31)))
    assert message == (
        f"Invalid file format. Examples {numbers} and 10 more, message 1 Discriminator 'role' is "
        "missing in value; Example 41, there must be at least one assistant message with weight 1 "
        "(31 bad lines in all)"
    )


def test_faults_of_many_kinds_are_told_up_to_twenty(tmp_path: Path) -> None:
    bad = [chat(*[USER] * number, {"content": "hi"}, ANSWER) for number in range(30)]
    message = refused(tmp_path, lines(bad))
    assert message.count("Example ") == 20
    assert message.endswith("; and 10 more (30 bad lines in all)")


OTHER_SHAPES: dict[str, tuple[dict[str, object], str]] = {
    "alpaca": ({"instruction": "a", "input": "", "output": "b"}, "an alpaca row"),
    "sharegpt": ({"conversations": [{"from": "human", "value": "a"}]}, "a sharegpt row"),
    "ranked": ({"prompt": "a", "chosen": "b", "rejected": "c"}, "a row of preferences"),
    "ranked sharegpt": (
        {"conversations": [], "chosen": {"from": "gpt", "value": "b"}, "rejected": {}},
        "a row of preferences",
    ),
    "preferences": (
        {"input": {"messages": [USER]}, "preferred_output": [ANSWER]},
        "a row of preferences",
    ),
    "kto": (chat(USER, ANSWER, label=True), "a row of the KTO method"),
    "pair": ({"question": "a", "answer": "b"}, "a pair of 'question' and 'answer'"),
    "messages in a pair": ({"prompt": [USER], "completion": [ANSWER]}, "lists of messages"),
    "batch": ({"custom_id": "1", "method": "POST", "url": "/", "body": {}}, "line of a batch"),
}


@pytest.mark.parametrize("kind", OTHER_SHAPES)
def test_rows_of_other_trainers_are_named(tmp_path: Path, kind: str) -> None:
    row, named = OTHER_SHAPES[kind]
    message = refused(tmp_path, lines([row] * 12))
    assert message.startswith(
        "Unexpected file format, expected either prompt/completion pairs or chat messages. It seems"
    )
    assert named in message
    assert message.endswith("(lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12) (12 bad lines in all)")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (MANY_DIGITS.encode(), "invalid json: an integer has too many digits"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "invalid json: nested too deeply (more than 64 levels)"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "invalid json: nested too deeply"),
        (b'{"a": "caf\xe9"}', "not valid UTF-8 (this looks like Windows-1252 or Latin-1)"),
    ],
    ids=["digits", "deep", "deeper", "latin-1"],
)
def test_json_that_cannot_be_read_is_told_by_line(tmp_path: Path, line: bytes, said: str) -> None:
    message = refused(tmp_path, lines(rows(10)) + line + b"\n")
    assert message.startswith("Invalid file format. Example 11 cannot be parsed. Error: line ")
    assert said in message
    assert "(line 11) (1 bad line in all)" in message


def test_a_marked_file_is_read_and_utf16_is_named(tmp_path: Path) -> None:
    content = lines(rows(10))
    marked = write(tmp_path, b"\xef\xbb\xbf" + content)
    assert validate_training_file(marked, CHATS).num_examples == 10
    message = refused(tmp_path, content.decode().encode("utf-16"))
    assert message == (
        "Invalid file format. The file is not UTF-8: this looks like UTF-16. Save it as UTF-8."
    )


def test_columns_that_are_not_trained_on_are_one_warning(tmp_path: Path) -> None:
    odd = [{**row, "id": n, "source": "x", "my notes": 1} for n, row in enumerate(rows(12))]
    assert validate_training_file(write(tmp_path, lines(odd)), CHATS).warnings == (
        "Columns that are not trained on were ignored in 12 training example(s): 'id', 'source', "
        "'(unnamed)'",
    )
    pairs = [{"prompt": "a", "completion": "b", "id": 1}] * 10
    warnings = validate_training_file(write(tmp_path, lines(pairs)), CHATS).warnings
    assert warnings == (
        "Columns that are not trained on were ignored in 10 training example(s): 'id'",
    )


def test_arguments_encoded_twice_are_unwrapped_with_a_warning(tmp_path: Path) -> None:
    arguments = json.dumps(json.dumps({"altitude": 100}))
    called = {**CALL, "function": {"name": "f", "arguments": arguments}}
    twice = chat(USER, {"role": "assistant", "tool_calls": [called]}, tools=[TOOL])
    path = write(tmp_path, lines([*rows(10), twice, twice]))
    assert validate_training_file(path, CHATS).warnings == (
        "The arguments of tool calls were JSON encoded twice in 2 training example(s) and were "
        "unwrapped: lines 11, 12",
    )


def test_a_chat_needs_a_chat_format_and_a_pair_does_not(tmp_path: Path) -> None:
    def none() -> ChatRows:
        return ChatRows(lambda: open_format(None, TokenizerInfo()), MaskOptions())

    with pytest.raises(InvalidFileError, match="ships no chat template"):
        validate_training_file(write(tmp_path, lines(rows(10))), none())
    pairs = lines([{"prompt": "a", "completion": "b"}] * 10)
    assert validate_training_file(write(tmp_path, pairs), none()).num_examples == 10


def test_what_a_check_keeps_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        odd = {**chat(USER, ANSWER), "note": "x" * 500}
        bad = [chat(USER, {**ANSWER, "weight": 2}), {"messages": [], "note": "x" * 500}]
        path = write(tmp_path, lines([odd, *bad]) * count)
        tracemalloc.start()
        with pytest.raises(InvalidFileError):
            validate_training_file(path, CHATS)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    few, many = peak(100), peak(5000)
    assert many < few + 100_000


def test_a_line_that_is_not_json_is_told_as_openai_does(tmp_path: Path) -> None:
    content = lines(rows(10)) + b'{"messages": [}\n'
    with pytest.raises(InvalidFileError) as invalid:
        validate_training_file(write(tmp_path, content), CHATS)
    assert "Example 11 cannot be parsed. Error: line contains invalid json: " in str(invalid.value)
    assert "(line 11)" in str(invalid.value)


def test_users_text_is_not_quoted(tmp_path: Path) -> None:
    secret = chat({"role": "user", "content": "my secret", "my secret key": 1}, ANSWER)
    with pytest.raises(InvalidFileError) as invalid:
        validate_training_file(write(tmp_path, lines([*rows(10), secret])), CHATS)
    assert "secret" not in str(invalid.value)


def test_ten_examples_are_needed_for_training_only(tmp_path: Path) -> None:
    path = write(tmp_path, lines(rows(9)))
    with pytest.raises(InvalidFileError) as invalid:
        validate_training_file(path, CHATS)
    error = invalid.value.error
    assert (error.code, error.param) == ("invalid_n_examples", "training_file")
    assert error.message == "Training file has 9 example(s), but must have at least 10 examples"
    assert validate_validation_file(path, CHATS).num_examples == 9


def test_a_bad_validation_file_has_its_own_code(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError) as invalid:
        validate_validation_file(write(tmp_path, lines([{}])), CHATS)
    error = invalid.value.error
    assert (error.code, error.param) == ("invalid_validation_file", "validation_file")


def test_kinds_of_examples_are_not_mixed(tmp_path: Path) -> None:
    mixed = [*rows(10), {"prompt": "a", "completion": "b"}]
    with pytest.raises(InvalidFileError, match="mixes"):
        validate_training_file(write(tmp_path, lines(mixed)), CHATS)


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
    assert validate_training_file(write(tmp_path, content), CHATS).num_examples == 12
    pairs = [{"prompt": f"{n}", "completion": "x"} for n in range(10)]
    assert validate_training_file(write(tmp_path, lines(pairs)), CHATS).num_examples == 10


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
    kept = settle(given, 5000)
    assert (kept.n_epochs, kept.batch_size, kept.learning_rate_multiplier) == (7, 9, 0.5)


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
