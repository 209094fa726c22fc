"""The HF engine as the worker sees it: lives on the event loop, talks to the engine's thread."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
import transformers

from workers.contract.hello import Capability
from workers.contract.messages import FailureKind, Stats
from workers.contract.parts import AdapterRef
from workers.engine.adapter_files import check_adapter, made_plain
from workers.engine.adapter_kinds import rules_of
from workers.engine.backend import (
    AdapterHost,
    Description,
    Output,
    PoolingHost,
    Receiver,
    RefusedError,
    Work,
)
from workers.engine.hf.assembly import assemble
from workers.engine.hf.commands import Cancel, Load, Submit, Unload
from workers.engine.hf.engine import Engine
from workers.engine.hf.grammar import GrammarCompiler
from workers.engine.hf.lora.places import AdapterPlaces
from workers.engine.hf.lora.weights import AdapterCache, AdapterWeights, read_adapter
from workers.engine.hf.media.host import HfMedia
from workers.engine.hf.model import LoadedModel, load_model
from workers.engine.hf.pooled import BATCH_TOKENS, HfPooling, PoolQueue
from workers.engine.hf.pooling import read_pooling
from workers.engine.hf.pooling_backend import HfPoolingBackend
from workers.engine.hf.sampling import Sampler
from workers.engine.hf.sequence import Sequence
from workers.engine.hf.settings import HfSettings
from workers.engine.hf.task import Task, choose_task
from workers.engine.spec import EngineSpec, read_settings
from workers.engine.text.pretrained import PretrainedVocabulary, load_vocabulary

log = logging.getLogger(__name__)

_STOP_TIMEOUT_S = 5.0
_CAPABILITIES = frozenset(Capability) - {Capability.EMBED, Capability.SCORE}


def create(
    spec: EngineSpec,
) -> tuple[HfBackend | HfPoolingBackend, PretrainedVocabulary]:
    """Raises SpecError."""
    settings = read_settings(spec.settings, HfSettings)
    assert spec.model_path is not None, "the spec has checked it"
    task = choose_task(spec.model_path, settings.task)
    vocabulary = load_vocabulary(
        spec.model_path,
        trust_remote_code=spec.trust_remote_code,
        spells_output=task is Task.GENERATE,
    )
    if task is not Task.GENERATE:
        return HfPoolingBackend(spec, settings, task, vocabulary), vocabulary
    return HfBackend(spec, settings, vocabulary), vocabulary


class HfBackend:
    def __init__(
        self, spec: EngineSpec, settings: HfSettings, vocabulary: PretrainedVocabulary
    ) -> None:
        self._spec = spec
        self._settings = settings
        self._vocabulary = vocabulary
        self._engine: Engine | None = None
        self._adapters: HfAdapters | None = None
        self._pooling = read_pooling(spec.model_path or "", settings)
        self._embeddings: HfPooling | None = None
        self._grammars: GrammarCompiler | None = None
        self._media: HfMedia | None = None
        self._submitted: list[Sequence] = []

    async def start(self, receiver: Receiver) -> Description:
        self._loop = asyncio.get_running_loop()
        self._receiver = receiver
        loaded = await asyncio.to_thread(self._build)
        can_adapt = self._adapters is not None
        capabilities = _CAPABILITIES if can_adapt else _CAPABILITIES - {Capability.LORA}
        if self._embeddings is not None:
            capabilities |= {Capability.EMBED}
        return Description(
            engine=f"hf/{transformers.__version__}",
            max_model_len=loaded.max_model_len,
            capabilities=capabilities,
            max_loras=self._spec.max_loras if can_adapt else 0,
            max_lora_rank=self._spec.max_lora_rank if can_adapt else 0,
            media=loaded.media,
            compatibility=loaded.compatibility,
        )

    async def submit(self, work: Work) -> None:
        adapter = grammar = media = None
        if self._media is not None and work.media:
            media = await self._media.place(work)
        if work.adapter is not None and self._adapters is not None:
            adapter = await self._adapters.fetch(work.adapter)
        if work.grammar is not None and self._grammars is not None:
            grammar = await self._grammars.compile(work.grammar, work.stop_ids)
        if not self._submitted:
            self._loop.call_soon(self._hand_over)
        self._submitted.append(Sequence(work, grammar, adapter, media=media))

    def _hand_over(self) -> None:
        if self._submitted:
            sequences, self._submitted = self._submitted, []
            self._running.tell(Submit(sequences))

    def abort(self, key: int) -> None:
        self._hand_over()
        self._running.tell(Cancel(key))

    @property
    def adapters(self) -> AdapterHost | None:
        return self._adapters

    @property
    def pooling(self) -> PoolingHost | None:
        return self._embeddings

    def stats(self) -> Stats:
        return self._running.stats(self._usage())

    async def close(self) -> None:
        if self._grammars is not None:
            self._grammars.close()
        if self._adapters is not None:
            self._adapters.close()
        if self._media is not None:
            self._media.close()
        if self._engine is not None:
            await asyncio.to_thread(self._engine.stop, _STOP_TIMEOUT_S)

    @property
    def _running(self) -> Engine:
        assert self._engine is not None, "start comes first"
        return self._engine

    def _build(self) -> LoadedModel:
        """Takes seconds; runs off the event loop."""
        spec, settings = self._spec, self._settings
        loaded = load_model(spec, settings, self._vocabulary.tokenizer)
        self._media = loaded.media
        places = None
        if spec.max_loras and loaded.lora_layers:
            width = spec.max_loras * spec.max_lora_rank
            places = AdapterPlaces(
                loaded.lora_layers, spec.max_loras, width, settings.saved_modules_bytes
            )
        parts = assemble(loaded, places, spec, settings)
        self._usage = parts.usage
        self._grammars = GrammarCompiler(self._vocabulary)
        self._engine = Engine(
            loaded,
            parts.forward,
            parts.scheduler,
            parts.rows,
            places,
            Sampler(self._grammars),
            PoolQueue(loaded, places, self._pooling.kind) if self._pooling is not None else None,
            deliver=self._deliver,
            die=self._die,
        )
        if places is not None:
            self._adapters = HfAdapters(loaded, spec, settings, self._engine, self._receiver)
        if self._pooling is not None:
            self._embeddings = HfPooling(
                self._engine.tell,
                BATCH_TOKENS[loaded.device.type],
                pooling=self._pooling,
                hidden_size=loaded.model.config.get_text_config().hidden_size,
                frame=self._vocabulary.frame,
                fetch=self._adapters.fetch if self._adapters is not None else None,
            )
        self._engine.start()
        return loaded

    def _deliver(self, outputs: list[Output]) -> None:
        self._call(self._receiver.deliver, outputs)

    def _die(self, reason: str) -> None:
        self._call(self._receiver.died, reason)

    def _call(self, callback: object, argument: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, argument)  # pyright: ignore
        except RuntimeError:
            log.info("the event loop is closed; outputs are dropped")


class HfAdapters:
    """Reads adapters off both threads and hands them to the engine."""

    def __init__(
        self,
        loaded: LoadedModel,
        spec: EngineSpec,
        settings: HfSettings,
        engine: Engine,
        receiver: Receiver,
    ) -> None:
        self._layers = loaded.lora_layers
        self._unserved = loaded.unserved
        self._dtype = loaded.dtype
        self._rules = rules_of(spec.backend, spec.max_lora_rank)
        self._model_path = spec.model_path or ""
        self._max_whole_bytes = settings.saved_modules_bytes
        self._cache = AdapterCache(settings.adapter_host_bytes)
        self._known: dict[str, AdapterRef] = {}
        self._names: dict[int, str] = {}
        self._reads: dict[str, asyncio.Future[AdapterWeights]] = {}
        self._engine = engine
        self._receiver = receiver
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="adapters")

    async def load(self, adapter: AdapterRef) -> None:
        weights = await self.fetch(adapter)
        done: Future[None] = Future()
        self._engine.tell(Load(weights, done))
        await asyncio.wrap_future(done)
        self._receiver.adapters_changed()

    async def unload(self, name: str) -> None:
        known = self._known.get(name)
        if known is None:
            return
        done: Future[None] = Future()
        self._engine.tell(Unload(name, known.uid, done))
        await asyncio.wrap_future(done)
        self._cache.drop(name)
        self._receiver.adapters_changed()

    async def fetch(self, ref: AdapterRef) -> AdapterWeights:
        """Checked weights in main memory. Raises RefusedError."""
        self._check_identity(ref)
        weights = self._cache.get(ref.name)
        if weights is not None:
            return weights
        read = self._reads.get(ref.name)
        if read is None:
            loop = asyncio.get_running_loop()
            read = self._reads[ref.name] = loop.create_task(self._read(ref))
            read.add_done_callback(partial(self._finish_read, ref))
        return await asyncio.shield(read)

    async def _read(self, ref: AdapterRef) -> AdapterWeights:
        """A conversion may take long and must not hold up the reading of other adapters. Raises
        RefusedError."""
        plain = await asyncio.to_thread(self._made_plain, ref)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reader, self._read_plain, plain)

    def _made_plain(self, ref: AdapterRef) -> AdapterRef:
        """Refuses before it converts. Raises RefusedError."""
        check_adapter(ref, None, self._rules)
        return made_plain(ref, self._model_path)

    @torch.inference_mode()
    def _read_plain(self, ref: AdapterRef) -> AdapterWeights:
        layers, limit = self._layers, self._max_whole_bytes
        return read_adapter(ref, layers, self._rules, self._dtype, limit, self._unserved)

    def close(self) -> None:
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _finish_read(self, ref: AdapterRef, read: asyncio.Future[AdapterWeights]) -> None:
        del self._reads[ref.name]
        if not read.cancelled() and read.exception() is None:
            self._known[ref.name] = ref
            self._names[ref.uid] = ref.name
            self._cache.put(read.result())

    def _check_identity(self, ref: AdapterRef) -> None:
        known = self._known.get(ref.name, ref)
        if known != ref or self._names.get(ref.uid, ref.name) != ref.name or ref.uid == 0:
            message = (
                f"Adapter {ref.name!r} was loaded from other files before; a new version needs a "
                "new name and id."
            )
            raise RefusedError(FailureKind.ADAPTER_INVALID, message, "model")
