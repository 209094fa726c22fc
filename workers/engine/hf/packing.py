"""The slices of one step as one packed batch, and whose its tokens are."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from workers.engine.hf.attention import Chunk, StepLayout, plan_runs
from workers.engine.hf.loaded import LoadedModel
from workers.engine.hf.lora.places import AdapterPlaces
from workers.engine.hf.lora.plan import plan_adapters
from workers.engine.hf.media.sequences import MediaSlice, step_inputs
from workers.engine.hf.scheduler import Slice, Step


@dataclass(frozen=True, slots=True)
class Packed:
    ids: list[int] = field(default_factory=list[int])
    positions: list[int] = field(default_factory=list[int])
    keep: list[int] = field(default_factory=list[int])
    """Where logits are wanted."""
    media: list[MediaSlice] = field(default_factory=list[MediaSlice])

    def logits(self, loaded: LoadedModel) -> torch.Tensor:
        """Float32 [N, V], where they are wanted; `lay_out` must have been called."""
        device = loaded.device
        loaded.adapter_step.keep = self.keep if loaded.selects_logits else None
        if loaded.decoder is not None and not self.media:
            every = len(self.keep) == len(self.ids)
            return loaded.decoder.logits(
                torch.tensor(self.ids, device=device),
                torch.tensor(self.positions, device=device),
                None if every else torch.tensor(self.keep, device=device, dtype=torch.long),
            ).float()
        inputs = step_inputs(
            loaded.model,
            torch.tensor([self.ids], device=device),
            torch.tensor([self.positions], device=device),
            self.media,
        )
        return loaded.logits(inputs, torch.tensor(self.keep, device=device, dtype=torch.long))


def pack(slices: list[Slice]) -> Packed:
    packed = Packed()
    for part in slices:
        first = len(packed.ids)
        if part.sequence.media is not None:
            packed.media.append(MediaSlice(part.sequence.media, first, part.start, part.end))
        packed.ids.extend(part.sequence.tokens[part.start : part.end])
        packed.positions.extend(range(part.start, part.end))
        if part.sequence.prompt_scores is not None and not part.sequence.num_output:
            packed.keep.extend(range(first, first + part.end - part.start))
        elif part.completes:
            packed.keep.append(len(packed.ids) - 1)
    return packed


def lay_out(
    loaded: LoadedModel, places: AdapterPlaces | None, step: Step, positions: list[int]
) -> None:
    """Tells attention and adapters whose the packed tokens are."""
    device = loaded.device
    num_decode = len(step.decode)
    chunks: list[Chunk] = []
    first = num_decode
    for part in step.chunks:
        size = part.end - part.start
        media = part.sequence.media
        blocks = () if media is None else media.blocks
        chunks.append(Chunk(part.sequence.row, part.start, size, first, blocks))
        first += size
    decode_positions = torch.tensor(positions[:num_decode], device=device, dtype=torch.long)
    rows = [(part.sequence.row, part.end) for part in step.decode]
    loaded.attention.layout = StepLayout(plan_runs(rows, decode_positions), chunks)
    if places is not None:
        parts = [*step.decode, *step.chunks]
        plan_adapters(
            loaded.adapter_step,
            [places.columns(part.sequence.adapter) for part in parts],
            [part.end - part.start for part in parts],
            device,
        )


class PackedForward:
    """All slices of a step in one packed row."""

    def __init__(self, loaded: LoadedModel, places: AdapterPlaces | None) -> None:
        self._loaded = loaded
        self._places = places

    def logits(self, step: Step) -> torch.Tensor:
        packed = pack([*step.decode, *step.chunks])
        lay_out(self._loaded, self._places, step, packed.positions)
        return packed.logits(self._loaded)
