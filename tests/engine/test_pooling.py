"""Embeddings and scores of tiny random models, against transformers' own hidden states."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel, BertConfig, BertModel, Qwen3Config
from transformers import Qwen3ForSequenceClassification as Qwen3Scorer

from workers.contract.hello import Capability
from workers.contract.messages import Embed, Embedded, Failed, FailureKind, Finished, Score, Scored
from workers.contract.parts import Text, Tokens
from workers.engine.hf.pooled import plan_batches

from . import models

TEXTS = ["The quick brown fox", "a", "Grüße aus München, 你好世界", "yes no maybe " * 30]


def hidden(model: Any, text: str) -> Tensor:
    """The last layer's states of one text alone, [T, H]."""
    ids = torch.tensor([models.tokenizer().encode(text)])
    with torch.no_grad():
        return model(input_ids=ids).last_hidden_state[0].float()


def pooled(states: Tensor, kind: str) -> Tensor:
    row = {"mean": states.mean(0), "last": states[-1], "cls": states[0]}[kind]
    return torch.nn.functional.normalize(row, dim=-1)


def rows(answer: Any) -> Tensor:
    assert isinstance(answer, Embedded), answer
    return torch.stack(
        [torch.frombuffer(bytearray(v), dtype=torch.float32) for v in answer.vectors]
    )


def body(folder: Path) -> Any:
    return AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def hf(start_worker: Any, folder: Path, **spec: Any) -> Any:
    options = {"max_num_seqs": 4, "max_loras": 0, **spec}
    return start_worker(
        backend="hf", model_path=str(folder), dtype="float32", device="cpu", **options
    )


@pytest.mark.parametrize("kind", ["mean", "last", "cls"])
async def test_a_generating_model_embeds_as_transformers_pools(
    start_worker: Any, connect: Any, tmp_path: Path, kind: str
) -> None:
    folder = models.make_model(tmp_path / "model")
    client = await connect(hf(start_worker, folder, settings={"pooling": kind}))
    assert Capability.EMBED in client.hello.capabilities
    answer = await client.ask(Embed, [[Text(text)] for text in TEXTS])
    model = body(folder)
    expected = torch.stack([pooled(hidden(model, text), kind) for text in TEXTS])
    torch.testing.assert_close(rows(answer), expected, atol=1e-4, rtol=0)
    lengths = [len(models.tokenizer().encode(text)) for text in TEXTS]
    assert answer.prompt_tokens == sum(lengths)


async def test_embedding_beside_generation_changes_neither(
    start_worker: Any, connect: Any, tmp_path: Path
) -> None:
    folder = models.make_model(tmp_path / "model")
    adapter = models.make_adapter(folder, tmp_path / "adapter", 1)
    spec = {"settings": {"pooling": "last"}, "max_loras": 2, "max_lora_rank": 8}
    client = await connect(hf(start_worker, folder, **spec))
    options = {"temperature": 0.0, "max_tokens": 40, "ignore_eos": True}
    alone = [
        (await client.generate("The quick", **options)).ids,
        (await client.generate("The quick", adapter=adapter, **options)).ids,
    ]
    running = [client.start("The quick", adapter=a, **options) for a in (None, adapter)]
    inputs = [[Text(text)] for text in TEXTS * 4]
    plain, adapted = await asyncio.gather(
        client.ask(Embed, inputs), client.ask(Embed, inputs, None, adapter)
    )
    assert [(await client.finish(r)).ids for r in running] == alone
    base, tuned = body(folder), models.merged(folder, adapter).model
    for answer, model in ((plain, base), (adapted, tuned)):
        expected = torch.stack([pooled(hidden(model, text), "last") for text in TEXTS])
        torch.testing.assert_close(rows(answer)[: len(TEXTS)], expected, atol=1e-3, rtol=0)
        torch.testing.assert_close(rows(answer)[-len(TEXTS) :], expected, atol=1e-3, rtol=0)


async def test_bad_inputs_are_refused_and_the_engine_goes_on(
    start_worker: Any, connect: Any, tmp_path: Path
) -> None:
    folder = models.make_model(tmp_path / "model")
    client = await connect(hf(start_worker, folder, settings={"pooling": "mean"}))
    cases: list[tuple[list[Any], FailureKind, str]] = [
        ([[]], FailureKind.INVALID_REQUEST, "input"),
        ([[[Text("")]]], FailureKind.INVALID_REQUEST, "input"),
        ([[[Tokens([448])]]], FailureKind.INVALID_REQUEST, "input"),
        ([[[Tokens([5] * 513)]]], FailureKind.CONTEXT_LENGTH_EXCEEDED, "input"),
        ([[[Tokens([5] * 500)]] * 601], FailureKind.INVALID_REQUEST, "input"),
        ([[[Text("a")]], 8], FailureKind.UNSUPPORTED, "dimensions"),
    ]
    for arguments, kind, param in cases:
        failed = await client.ask(Embed, *arguments)
        assert isinstance(failed, Failed)
        assert (failed.kind, failed.param) == (kind, param), failed
    refused = await client.ask(Score, [[Text("a")]])
    assert refused.kind is FailureKind.UNSUPPORTED
    assert isinstance((await client.generate("a", max_tokens=2)).end, Finished)


async def test_a_sentence_transformers_encoder_is_served_as_it_declares(
    start_worker: Any, connect: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "encoder"
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=448,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    config.update({"matryoshka_dimensions": [8, 16]})
    model = BertModel(config).eval()
    model.save_pretrained(folder)
    models.tokenizer().save_pretrained(folder)
    names = [("Transformer", ""), ("Pooling", "1_Pooling")]
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {
                    "idx": i,
                    "name": str(i),
                    "path": path,
                    "type": f"sentence_transformers.models.{n}",
                }
                for i, (n, path) in enumerate(names)
            ]
        )
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False})
    )
    client = await connect(hf(start_worker, folder))
    assert client.hello.capabilities == [Capability.EMBED]
    assert client.hello.max_model_len == 128
    inputs = [[Text(text)] for text in TEXTS]
    answer = await client.ask(Embed, inputs)
    means = torch.stack([hidden(model, text).mean(0) for text in TEXTS])
    torch.testing.assert_close(rows(answer), means, atol=1e-4, rtol=0)  # no Normalize module
    torch.testing.assert_close(
        rows(await client.ask(Embed, inputs, 8)), means[:, :8], atol=1e-4, rtol=0
    )
    bad = await client.ask(Embed, inputs, 9)
    assert (bad.kind, bad.param) == (FailureKind.INVALID_REQUEST, "dimensions")
    generated = await client.generate("a")
    assert generated.end.kind is FailureKind.UNSUPPORTED


def scorer_folder(folder: Path) -> Any:
    torch.manual_seed(5)
    config = Qwen3Config(
        vocab_size=448,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        num_labels=1,
        pad_token_id=models.tokenizer().pad_token_id,
    )
    model = Qwen3Scorer(config).eval()
    model.save_pretrained(folder)
    models.tokenizer().save_pretrained(folder)
    return model


async def test_a_classifier_with_one_label_scores_as_transformers_does(
    start_worker: Any, connect: Any, tmp_path: Path
) -> None:
    model = scorer_folder(tmp_path / "rm")
    client = await connect(hf(start_worker, tmp_path / "rm"))
    assert client.hello.capabilities == [Capability.SCORE]
    answer = await client.ask(Score, [[Text(text, control=True)] for text in TEXTS])
    assert isinstance(answer, Scored)

    def score(text: str, limit: int = 256) -> float:
        with torch.no_grad():
            ids = torch.tensor([models.tokenizer().encode(text)[:limit]])
            return float(model(input_ids=ids).logits[0, 0])

    assert answer.scores == pytest.approx([score(text) for text in TEXTS], abs=1e-4)
    cut = await client.ask(Score, [[Text(TEXTS[3], control=True)]], None, 5)
    assert cut.scores == pytest.approx([score(TEXTS[3], 5)], abs=1e-4)
    assert cut.prompt_tokens == 5
    long = await client.ask(Score, [[Text("yes no " * 300)]])
    assert (long.kind, long.param) == (FailureKind.CONTEXT_LENGTH_EXCEEDED, "messages")


async def test_a_value_head_beside_a_causal_model_scores_the_last_token(
    start_worker: Any, connect: Any, tmp_path: Path
) -> None:
    folder = models.make_model(tmp_path / "rm")
    torch.manual_seed(9)
    weight, bias = torch.randn(1, 64), torch.randn(1)
    head = {"v_head.summary.weight": weight, "v_head.summary.bias": bias}
    save_file(head, folder / "value_head.safetensors")
    client = await connect(hf(start_worker, folder))
    answer = await client.ask(Score, [[Text(text, control=True)] for text in TEXTS])
    model = body(folder)
    expected = [float(hidden(model, text)[-1] @ weight[0] + bias[0]) for text in TEXTS]
    assert answer.scores == pytest.approx(expected, abs=1e-3)


async def test_a_value_head_is_served_at_its_config_s_length_whatever_the_tokenizer_says(
    start_worker: Any, connect: Any, tmp_path: Path
) -> None:
    folder = models.make_model(tmp_path / "rm")
    head = {"v_head.summary.weight": torch.randn(1, 64), "v_head.summary.bias": torch.randn(1)}
    save_file(head, folder / "value_head.safetensors")
    file = folder / "tokenizer_config.json"
    told = json.loads(file.read_text()) | {"model_max_length": 16}
    file.write_text(json.dumps(told))
    client = await connect(hf(start_worker, folder, max_model_len=64))
    assert client.hello.max_model_len == 64


async def test_a_pooling_that_cannot_be_served_is_refused_at_start(
    start_worker: Any, tmp_path: Path
) -> None:
    folder = models.make_model(tmp_path / "model")
    (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense"}]')
    worker = hf(start_worker, folder)
    assert await worker.exit_status() == 2
    assert "Dense cannot be served" in worker.log_path.read_text()


def test_batches_hold_inputs_of_like_length_within_their_budget() -> None:
    lengths = [5, 100, 3, 90, 200, 4]
    batches = plan_batches(lengths, 200)
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert batches == [[4], [1, 3], [0, 5, 2]]
