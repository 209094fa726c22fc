"""Kinds of adapters beside plain LoRA on the HF engine: each row of a mixed batch gives the logits
of PEFT's own model, and what is not served is refused by its name."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config

from workers.contract.parts import AdapterRef
from workers.engine.adapter_files import check_adapter, made_plain
from workers.engine.adapter_kinds import rules_of
from workers.engine.backend import RefusedError
from workers.engine.hf.lora.places import AdapterPlaces
from workers.engine.hf.lora.plan import plan_adapters
from workers.engine.hf.lora.weights import AdapterWeights, read_adapter
from workers.engine.hf.model import LoadedModel, load_model
from workers.engine.hf.settings import HfSettings
from workers.engine.spec import BackendName, EngineSpec

from . import models
from .conftest import WorkerProcess

RULES = rules_of(BackendName.HF, 16)
LENGTH = 9
MEMORY = 1 << 20
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ENDS = ["lm_head", "embed_tokens"]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "r": 8},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3}},
    "some layers": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
    "dora": {"use_dora": True},
    "dora on the ends": {"use_dora": True, "target_modules": ["q_proj", *ENDS]},
    "output layer": {"target_modules": ["q_proj", "lm_head"]},
    "embeddings": {"target_modules": ["v_proj", "embed_tokens"]},
    "saved modules": {"target_modules": ATTENTION, "modules_to_save": ENDS},
    "saved output layer": {"target_modules": ["down_proj"], "modules_to_save": ["lm_head"]},
    "orthogonal": {"init_lora_weights": "orthogonal"},
}
CONVERTED: dict[str, dict[str, Any]] = {
    "pissa": {"init_lora_weights": "pissa"},
    "pissa rslora": {"init_lora_weights": "pissa", "use_rslora": True},
    "olora": {"init_lora_weights": "olora", "rank_pattern": {"q_proj": 2}},
}


def load(model: Path, **settings: Any) -> LoadedModel:
    spec = EngineSpec(
        model_id="m",
        backend=BackendName.HF,
        listen="unix:/s",
        model_path=str(model),
        dtype="float32",
        device="cpu",
        max_loras=16,
        max_lora_rank=16,
    )
    loaded = load_model(spec, HfSettings(**settings))
    loaded.model.set_attn_implementation("sdpa")
    return loaded


def read(loaded: LoadedModel, model: Path, ref: AdapterRef) -> AdapterWeights:
    plain = made_plain(ref, model)
    return read_adapter(plain, loaded.lora_layers, RULES, loaded.dtype, MEMORY)


def make(model: Path, folder: Path, uid: int, **options: Any) -> tuple[AdapterRef, Tensor]:
    """An adapter and PEFT's logits of `ids`, with everything that it trains moved far enough to
    change them."""
    torch.manual_seed(100 + uid)
    target = {"target_modules": "all-linear", **options}
    config = LoraConfig(task_type="CAUSAL_LM", **{"r": 4, "lora_alpha": 8, **target})
    with warnings.catch_warnings():
        # PEFT's advice on ends, tied or not.
        warnings.simplefilter("ignore", UserWarning)
        tuned: Any = get_peft_model(models.load(model), config).eval()
        with torch.no_grad():
            for name, weight in tuned.named_parameters():
                if weight.requires_grad:
                    weight += torch.randn_like(weight) * (0.1 if "magnitude" not in name else 0.3)
        tuned.save_pretrained(folder)
    with torch.inference_mode():
        logits = tuned(input_ids=ids(uid), use_cache=False).logits[0]
    return AdapterRef(f"{folder.name}", uid, str(folder)), logits


def ids(seed: int) -> Tensor:
    return torch.randint(0, 440, (1, LENGTH), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def mixed(loaded: LoadedModel, rows: list[AdapterWeights | None], prompts: Tensor) -> Tensor:
    places = AdapterPlaces(loaded.lora_layers, 16, 256, MEMORY)
    for row in rows:
        assert row is None or places.acquire(row)
    blocks = [places.columns(row) for row in rows]
    plan_adapters(loaded.adapter_step, blocks, [LENGTH] * len(rows), loaded.device)
    found = loaded.model(input_ids=prompts, use_cache=False).logits
    for row in rows:
        if row is not None:
            places.release(row)
            assert places.unload(row.uid)
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.make_model(tmp_path_factory.mktemp("kinds") / "model", tie_word_embeddings=False)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.make_model(tmp_path_factory.mktemp("kinds") / "tied", tie_word_embeddings=True)


@pytest.fixture(scope="module")
def served(model: Path) -> LoadedModel:
    return load(model)


@pytest.mark.parametrize("which", ["model", "tied"])
def test_each_row_of_a_mixed_batch_is_its_own_model(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model: Path = request.getfixturevalue(which)
    served = load(model)
    made = {
        name: make(model, tmp_path / name, uid, **options)
        for uid, (name, options) in enumerate((KINDS | CONVERTED).items(), 1)
    }
    rows: list[AdapterWeights | None] = [read(served, model, ref) for ref, _ in made.values()]
    prompts = torch.cat([ids(0), *(ids(ref.uid) for ref, _ in made.values())])
    with torch.inference_mode():
        base = models.load(model)(input_ids=prompts, use_cache=False).logits
    found = mixed(served, [None, *rows], prompts)
    assert torch.allclose(found[0], base[0], atol=1e-3)
    for number, (name, (_, wanted)) in enumerate(made.items(), 1):
        assert torch.allclose(found[number], wanted, atol=5e-3), name
        assert not torch.allclose(found[number], base[number], atol=0.1), name
    again = mixed(served, [None] * len(prompts), prompts)
    assert torch.allclose(again, base, atol=1e-3)


def test_adapters_on_conv1d_layers(tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=448, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2
    )
    folder = tmp_path / "gpt2"
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    served = load(folder)
    targets = {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}
    kinds = {
        "plain": targets,
        "dora": {**targets, "use_dora": True},
        "pissa": {**targets, "init_lora_weights": "pissa"},
        "saved": {**targets, "modules_to_save": ["wte"]},
    }
    made = [make(folder, tmp_path / n, uid, **o) for uid, (n, o) in enumerate(kinds.items(), 1)]
    rows: list[AdapterWeights | None] = [read(served, folder, ref) for ref, _ in made]
    found = mixed(served, rows, torch.cat([ids(ref.uid) for ref, _ in made]))
    for name, row, (_, wanted) in zip(kinds, found, made, strict=True):
        assert torch.allclose(row, wanted, atol=5e-3), name


@pytest.mark.parametrize("which", ["model", "tied"])
async def test_kinds_share_a_batch_while_they_decode(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Through the worker: its own forward pass, logits of the last tokens only, three places."""
    model: Path = request.getfixturevalue(which)
    names = ["plain", "dora", "output layer", "embeddings", "saved modules"]
    refs = [make(model, tmp_path / n, uid, **KINDS[n])[0] for uid, n in enumerate(names, 1)]
    wanted = {None: models.greedy(models.load(model), "The quick", 8)}
    for ref in refs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            tuned = PeftModel.from_pretrained(models.load(model), ref.path).eval()
        wanted[ref.name] = models.greedy(tuned, "The quick", 8)
    assert len({tuple(found) for found in wanted.values()}) == len(wanted)
    worker = WorkerProcess(
        tmp_path,
        backend="hf",
        model_path=str(model),
        dtype="float32",
        device="cpu",
        max_loras=3,
        max_lora_rank=8,
    )
    client = await worker.client()
    greedy: dict[str, Any] = {"temperature": 0.0, "max_tokens": 8, "ignore_eos": True}
    try:
        order = [None, *refs] * 3
        numbers = [client.start("The quick", adapter=ref, **greedy) for ref in order]
        for ref, number in zip(order, numbers, strict=True):
            answer = await client.finish(number)
            assert answer.ids == wanted[None if ref is None else ref.name], ref
    finally:
        await client.close()
        worker.end()


def _pickle(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    torch.save(weights, folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


def test_pickled_weights_are_converted_once(
    model: Path, served: LoadedModel, tmp_path: Path
) -> None:
    ref, wanted = make(model, tmp_path / "pickled", 1)
    before = (tmp_path / "pickled" / "adapter_model.safetensors").read_bytes()
    _pickle(tmp_path / "pickled")
    found = mixed(served, [read(served, model, ref)], ids(1))
    assert torch.allclose(found[0], wanted, atol=5e-3)
    plain = Path(made_plain(ref, model).path)
    first = (plain / "adapter_model.safetensors").stat()
    assert load_file(plain / "adapter_model.safetensors").keys() == _names(before, tmp_path)
    assert (Path(made_plain(ref, model).path) / "adapter_model.safetensors").stat() == first


def _names(content: bytes, tmp_path: Path) -> set[str]:
    (tmp_path / "copy").write_bytes(content)
    return set(load_file(tmp_path / "copy"))


class _Harmful:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (__import__("os").mkdir, (str(_Harmful.target),))

    target = Path()


def test_a_pickle_is_never_run(model: Path, tmp_path: Path) -> None:
    ref, _ = make(model, tmp_path / "harmful", 1)
    _pickle(tmp_path / "harmful")
    _Harmful.target = tmp_path / "was-run"
    torch.save({"x": _Harmful()}, tmp_path / "harmful" / "adapter_model.bin")
    with pytest.raises(RefusedError, match="something else than tensors"):
        check_adapter(ref, None, RULES)
    assert not _Harmful.target.exists()


def test_a_pickle_that_claims_more_than_it_holds_is_refused(model: Path, tmp_path: Path) -> None:
    ref, _ = make(model, tmp_path / "vast", 1)
    _pickle(tmp_path / "vast")
    vast = torch.zeros(1).expand(1 << 20, 1 << 20)
    torch.save({"base_model.model.x.lora_A.weight": vast}, tmp_path / "vast" / "adapter_model.bin")
    with pytest.raises(RefusedError, match="larger than itself"):
        check_adapter(ref, None, RULES)


def test_factors_stored_beside_are_taken_out(
    model: Path, served: LoadedModel, tmp_path: Path
) -> None:
    """As LLaMA-Factory keeps them, for initialisations that draw random numbers."""
    torch.manual_seed(5)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=4, target_modules=ATTENTION, init_lora_weights="pissa_niter_2"
    )
    tuned: Any = get_peft_model(models.load(model), config).eval()
    folder = tmp_path / "random"
    tuned.peft_config["default"].init_lora_weights = True
    tuned.save_pretrained(folder / "pissa_init")
    tuned.peft_config["default"].init_lora_weights = "pissa_niter_2"
    with torch.no_grad():
        for weight in tuned.parameters():
            if weight.requires_grad:
                weight += torch.randn_like(weight) * 0.1
    tuned.save_pretrained(folder)
    with torch.inference_mode():
        wanted = tuned(input_ids=ids(1), use_cache=False).logits[0]
    ref = AdapterRef("random", 1, str(folder))
    found = mixed(served, [read(served, model, ref)], ids(1))
    assert torch.allclose(found[0], wanted, atol=5e-3)
    shutil.rmtree(folder / "converted")
    shutil.rmtree(folder / "pissa_init")
    with pytest.raises(RefusedError, match="random numbers"):
        made_plain(ref, model)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "other method": ({"peft_type": "IA3"}, "its peft_type is 'IA3'"),
    "lora_ga": ({"init_lora_weights": "lora_ga"}, "init_lora_weights='lora_ga' is not known"),
    "corda": ({"init_lora_weights": "corda"}, "init_lora_weights='corda' is not known"),
    "loftq": ({"init_lora_weights": "loftq"}, "init_lora_weights='loftq' is not known"),
    "to come": ({"init_lora_weights": "newest"}, "init_lora_weights='newest' is not known"),
    "new setting": ({"use_newest": True}, "the setting use_newest is not served"),
    "bdlora": ({"use_bdlora": {"target_modules_bd_a": []}}, "block-diagonal LoRA"),
    "experts": ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "fused experts"),
    "other module": ({"modules_to_save": ["score"]}, "'score' (modules_to_save) are not served"),
    "rank": ({"r": 0}, "r and lora_alpha"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_served_is_named(model: Path, tmp_path: Path, name: str) -> None:
    changes, said = REFUSED[name]
    ref, _ = make(model, tmp_path / "refused", 1)
    file = tmp_path / "refused" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(RefusedError) as refused:
        check_adapter(ref, None, RULES)
    assert said in refused.value.message
    assert str(tmp_path) not in refused.value.message


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal", "mica", None])
def test_initialisations_that_leave_the_base_alone_are_served(
    model: Path, tmp_path: Path, init: object
) -> None:
    ref, _ = make(model, tmp_path / "fine", 1)
    file = tmp_path / "fine" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "init_lora_weights": init}))
    assert check_adapter(ref, None, RULES).modules


@pytest.mark.parametrize(
    ("backend", "served"),
    [
        (BackendName.HF, set(KINDS) | set(CONVERTED)),
        (
            BackendName.VLLM,
            {"plain", "rslora", "patterns", "some layers", "output layer", "embeddings"}
            | {"orthogonal", *CONVERTED},
        ),
        (BackendName.SGLANG, {"plain", "some layers", "orthogonal", "pissa"}),
    ],
)
def test_each_engine_refuses_the_kinds_it_lacks(
    model: Path, tmp_path: Path, backend: BackendName, served: set[str]
) -> None:
    for uid, (name, options) in enumerate((KINDS | CONVERTED).items(), 1):
        ref, _ = make(model, tmp_path / name, uid, **options)
        if name in served:
            check_adapter(ref, None, rules_of(backend, 16))
            continue
        with pytest.raises(RefusedError, match=f"(?i)the {backend.value} engine does not serve"):
            check_adapter(ref, None, rules_of(backend, 16))


def test_ranks_count_twice_where_training_changed_the_base(model: Path, tmp_path: Path) -> None:
    ref, _ = make(model, tmp_path / "wide", 1, r=9, init_lora_weights="olora")
    with pytest.raises(RefusedError, match=r"rank 18 \(twice 9.* limit of 16: raise max_lora_rank"):
        check_adapter(ref, None, RULES)


def test_whole_weights_are_counted(model: Path, served: LoadedModel, tmp_path: Path) -> None:
    """An adapter over the limit is refused; one that has no room yet waits for another to go."""
    one, _ = make(model, tmp_path / "one", 1, **KINDS["saved modules"])
    two, _ = make(model, tmp_path / "two", 2, **KINDS["saved modules"])
    first, second = read(served, model, one), read(served, model, two)
    assert first.whole_bytes == 2 * 448 * 64 * 4
    with pytest.raises(RefusedError, match="raise saved_modules_bytes"):
        read_adapter(one, served.lora_layers, RULES, served.dtype, first.whole_bytes - 1)
    places = AdapterPlaces(served.lora_layers, 4, 64, first.whole_bytes)
    assert places.acquire(first)
    assert not places.load(second)
    places.release(first)
    assert places.load(second)
    assert places.names == ["two"]
    assert places.unload(2)


def test_what_peft_saves_of_the_base_beside_lora_is_not_held(
    model: Path, served: LoadedModel, tmp_path: Path
) -> None:
    ref, _ = make(model, tmp_path / "copies", 1, **KINDS["embeddings"])
    file = tmp_path / "copies" / "adapter_model.safetensors"
    weights = load_file(file)
    name = "base_model.model.model.embed_tokens.base_layer.weight"
    weights[name] = load_file(model / "model.safetensors")["model.embed_tokens.weight"]
    save_file(weights, file)
    assert read(served, model, ref).whole_bytes == 0
    weights[name] = torch.zeros(450, 64)
    save_file(weights, file)
    with pytest.raises(RefusedError, match="a vocabulary of another size"):
        read(served, model, ref)


def test_other_layouts_are_told(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"fine_tune_type": "lora"}))
    (tmp_path / "adapters.safetensors").write_bytes(b"")
    with pytest.raises(RefusedError, match="MLX"):
        check_adapter(AdapterRef("mlx", 1, str(tmp_path)), None, RULES)
    (tmp_path / "adapters.safetensors").rename(tmp_path / "model.safetensors")
    with pytest.raises(RefusedError, match="a whole model, not an adapter"):
        check_adapter(AdapterRef("whole", 1, str(tmp_path)), None, RULES)
