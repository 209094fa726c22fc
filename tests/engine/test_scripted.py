"""The worker process over its socket, with the scripted backend."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
from typing import Any

import pytest

from tests.gateway.conftest import MODEL
from workers.contract.hello import Capability
from workers.contract.messages import (
    Abort,
    Admitted,
    Detokenize,
    Done,
    Failed,
    FailureKind,
    Finished,
    FinishReason,
    LoadAdapter,
    Tokenize,
    UnloadAdapter,
)
from workers.contract.parts import AdapterRef, Text, Tokens
from workers.engine.spec import SpecError, read_spec

from .conftest import WorkerClient

CHAT = [
    Text("<|im_start|>user\n", control=True),
    Text("say hello to my world"),
    Text("<|im_end|>\n<|im_start|>assistant\n", control=True),
]


@pytest.fixture
def scripted(start_worker: Any) -> Any:
    def start(*replies: dict[str, Any], settings: dict[str, Any] | None = None, **spec: Any) -> Any:
        script = {"replies": list(replies), **(settings or {})}
        return start_worker(backend="scripted", settings=script, **spec)

    return start


async def test_it_greets_then_echoes_the_users_words(scripted: Any, connect: Any) -> None:
    client = await connect(scripted())
    assert client.hello.model == MODEL
    assert Capability.LORA in client.hello.capabilities
    answer = await client.generate(CHAT)
    assert answer.text == "say hello to my world"
    assert isinstance(answer.events[0], Admitted)
    assert answer.end == Finished(1, FinishReason.STOP, answer.events[0].prompt_tokens, 5)


async def test_the_socket_file_is_private(scripted: Any, connect: Any) -> None:
    worker = scripted()
    await connect(worker)
    mode = os.stat(worker.address.removeprefix("unix:")).st_mode
    assert stat.S_IMODE(mode) == 0o600


async def test_tcp_says_nothing_without_the_token(scripted: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    worker = scripted(listen=f"tcp:127.0.0.1:{port}", token="right")
    client = await worker.client()
    await client.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    stranger = WorkerClient(reader, writer)
    stranger.start("hello")
    await stranger.closed()
    assert stranger.num_frames == 0
    await stranger.close()


async def test_one_frame_a_step_holds_all_sequences(scripted: Any, connect: Any) -> None:
    client = await connect(
        scripted({"text": "word", "repeat": 20, "delay_ms": 20}, max_num_seqs=64)
    )
    before = client.num_frames
    requests = [client.prepare("go") for _ in range(64)]
    client.send(*requests)
    answers = [await client.finish(request.id) for request in requests]
    assert {answer.text for answer in answers} == {"word" * 20}
    assert client.num_frames - before < 40


async def test_stop_string_across_tokens_is_cut_out(scripted: Any, connect: Any) -> None:
    client = await connect(scripted({"tokens": ["Hello", " wo", "rl", "d", " again"]}))
    answer = await client.generate("x", stop=["world"], logprobs=0)
    assert (answer.text, answer.end.reason, answer.end.stop) == ("Hello ", "stop", "world")
    assert [entry.token for entry in answer.logprobs] == ["Hello", " wo"]
    assert (await client.generate("x", stop=["o wox"])).text == "Hello world again"


async def test_end_marks_end_the_output_unless_ignored(scripted: Any, connect: Any) -> None:
    client = await connect(scripted({"text": "one<|im_end|> two"}))
    answer = await client.generate("x")
    assert (answer.text, answer.end.stop, answer.end.completion_tokens) == ("one", None, 2)
    assert (await client.generate("x", ignore_eos=True)).text == "one two"
    marked = await client.generate("x", stop_words=["ne"])
    assert (marked.text, marked.end.stop) == ("o", None)


async def test_max_tokens_ends_with_length(scripted: Any, connect: Any) -> None:
    client = await connect(scripted({"text": "a b c d"}))
    answer = await client.generate("x", max_tokens=2)
    assert (answer.text, answer.end.reason) == ("a b", FinishReason.LENGTH)


async def test_abort_ends_in_one_finished(scripted: Any, connect: Any) -> None:
    client = await connect(scripted({"text": "a", "hangs": True}))
    request = client.start("x")
    await client.queues[request].get()
    client.send(Abort(request), Abort(request))
    assert (await client.finish(request)).end.reason == FinishReason.ABORT
    stats = await client.next_stats()
    assert (stats.running, client.queues[request].empty()) == (0, True)


async def test_a_lost_connection_frees_its_places(scripted: Any, connect: Any) -> None:
    worker = scripted({"contains": "hang", "hangs": True, "text": ""}, max_num_seqs=1)
    first, second = await connect(worker), await connect(worker)
    request = first.start("hang")
    await first.queues[request].get()
    waiting = second.start("free now")
    await first.close()
    assert (await second.finish(waiting)).text == "free now"


async def test_a_full_queue_is_overloaded(scripted: Any, connect: Any) -> None:
    worker = scripted({"hangs": True, "text": "a"}, max_num_seqs=1, max_waiting=1)
    client = await connect(worker)
    requests = [client.start("x") for _ in range(3)]
    assert (await client.finish(requests[2])).end.kind == FailureKind.OVERLOADED


@pytest.mark.parametrize(
    ("options", "kind", "param"),
    [
        ({"logit_bias": {1 << 20: 1.0}}, FailureKind.INVALID_REQUEST, "logit_bias"),
        ({"temperature": float("nan")}, FailureKind.INVALID_REQUEST, "temperature"),
        ({"top_p": 0.0}, FailureKind.INVALID_REQUEST, "top_p"),
        ({"logprobs": 21}, FailureKind.INVALID_REQUEST, "logprobs"),
        ({"stop_token_ids": [-1]}, FailureKind.INVALID_REQUEST, "stop_token_ids"),
        ({"min_tokens": 5, "max_tokens": 4}, FailureKind.INVALID_REQUEST, "min_tokens"),
        ({"max_tokens": 100}, FailureKind.CONTEXT_LENGTH_EXCEEDED, "messages"),
        ({"seed": 1}, FailureKind.UNSUPPORTED, "seed"),
    ],
)
async def test_a_bad_parameter_is_refused_by_name(
    scripted: Any, connect: Any, options: dict[str, Any], kind: FailureKind, param: str
) -> None:
    can = [c for c in Capability if c is not Capability.SEED]
    client = await connect(scripted(settings={"capabilities": can}, max_model_len=100))
    answer = await client.generate("hello", **options)
    assert (answer.end.kind, answer.end.param, len(answer.events)) == (kind, param, 1)


async def test_prompts_too_long_or_empty_or_unknown(scripted: Any, connect: Any) -> None:
    client = await connect(scripted(max_model_len=8))
    long = (await client.generate("a b c d e f g h")).end
    assert long.message.startswith("This model's maximum context length is 8 tokens. However,")
    assert (await client.generate("")).end.kind == FailureKind.INVALID_REQUEST
    assert (await client.generate([Tokens([1 << 21])])).end.param == "prompt"


async def test_scripted_failures(scripted: Any, connect: Any) -> None:
    worker = scripted(
        {"contains": "early", "fail": {"kind": "out_of_memory"}},
        {"contains": "late", "text": "a b c", "fail": {"kind": "internal", "after_tokens": 2}},
        {"contains": "die", "text": "a b c", "dies_after_tokens": 1},
    )
    client = await connect(worker)
    early = await client.generate("early")
    assert [type(event) for event in early.events] == [Failed]
    late = await client.generate("late")
    assert (late.text, late.end.kind) == ("a b", FailureKind.INTERNAL)
    client.start("die")
    await client.closed()
    assert await worker.exit_status() == -signal.SIGKILL


async def test_adapters_are_counted_evicted_and_unloaded(
    scripted: Any, connect: Any, tmp_path: Any
) -> None:
    client = await connect(scripted({"text": "I am {adapter}"}, max_loras=1))
    refs = []
    for uid, name in enumerate(["a", "b"], 1):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
        refs.append(AdapterRef(name, uid, str(tmp_path / name)))
    assert (await client.generate("x", adapter=refs[0])).text == "I am a"
    assert isinstance(await client.ask(LoadAdapter, refs[1]), Done)
    assert (await client.next_stats()).adapter_evictions == 1
    assert isinstance(await client.ask(UnloadAdapter, "b"), Done)
    missing = await client.ask(LoadAdapter, AdapterRef("c", 3, str(tmp_path / "c")))
    assert missing.kind == FailureKind.ADAPTER_NOT_FOUND


async def test_tokenize_and_detokenize(scripted: Any, connect: Any) -> None:
    client = await connect(scripted())
    ids = (await client.ask(Tokenize, CHAT)).ids
    text = (await client.ask(Detokenize, ids)).text
    assert text == "<|im_start|>user\nsay hello to my world<|im_end|>\n<|im_start|>assistant\n"


async def test_term_lets_running_requests_end(scripted: Any, connect: Any) -> None:
    worker = scripted({"text": "a b c d e f", "delay_ms": 50})
    client = await connect(worker)
    request = client.start("x")
    await client.queues[request].get()
    worker.signal(signal.SIGTERM)
    assert (await client.finish(request)).text == "a b c d e f"
    assert client.was_told_of_leaving
    assert await worker.exit_status() == 0
    assert not os.path.exists(worker.address.removeprefix("unix:"))


async def test_it_leaves_when_its_parent_is_gone(scripted: Any, connect: Any) -> None:
    worker = scripted()
    client = await connect(worker)
    worker.drop_parent()
    await client.closed()
    assert await worker.exit_status() == 0


async def test_a_stale_socket_of_a_killed_worker_is_replaced(scripted: Any, connect: Any) -> None:
    first = scripted()
    client = await connect(first)
    first.signal(signal.SIGKILL)
    await client.closed()
    await first.exit_status()
    second = await connect(scripted(listen=first.address))
    assert (await second.generate("back")).text == "back"


@pytest.mark.parametrize("junk", [b"\xff\xff\xff\xff", b"\x03\x00\x00\x00abc"])
async def test_junk_costs_only_its_own_connection(scripted: Any, connect: Any, junk: bytes) -> None:
    worker = scripted()
    good = await connect(worker)
    reader, writer = await asyncio.open_unix_connection(worker.address.removeprefix("unix:"))
    bad = WorkerClient(reader, writer)
    writer.write(junk)
    await bad.closed()
    await bad.close()
    assert (await good.generate("fine")).text == "fine"


@pytest.mark.parametrize(
    "spec",
    [
        '{"model_id": "m", "backend": "scripted"}',
        '{"model_id": "m", "backend": "scripted", "listen": "unix:/x", "typo": 1}',
        '{"model_id": "m", "backend": "hf", "listen": "unix:/x"}',
        '{"model_id": "m", "backend": "scripted", "listen": "tcp:localhost:1"}',
        '{"model_id": "m", "backend": "scripted", "listen": "unix:/x", "max_num_seqs": 0}',
        "not json",
    ],
)
def test_a_bad_spec_is_refused(tmp_path: Any, spec: str) -> None:
    file = tmp_path / "spec.json"
    file.write_text(spec)
    with pytest.raises(SpecError):
        read_spec(file)
