"""The methods of jobs: what `method.type` may be, and what each is to the trainer.

A method is a line here. The wire's schema, refusals, the check of files and the trainer's spec are
made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from templates.examples import Example, read_example
from templates.labelled import read_labelled
from templates.preferences import read_preference
from workers.contract.parameters import Stage, parameters


@dataclass(frozen=True, slots=True)
class Method:
    name: str
    stage: Stage
    read: Callable[[bytes], Example]
    """A line of a training file. Raises ExampleError."""
    settled: Mapping[str, object] = field(default_factory=dict[str, object])
    """Declared parameters that the method itself sets."""
    last_answer_only: bool = False
    """Whether a conversation's last answer alone is learned from."""

    @property
    def makes_reward_model(self) -> bool:
        """What is left is a whole model that scores, whichever weights were trained."""
        return self.stage is Stage.RM

    @property
    def title(self) -> str:
        """For the names of its schemas."""
        return self.name.title().replace("_", "")

    @property
    def has_beta(self) -> bool:
        return parameters()["pref_beta"].is_of(stage=self.stage)


def _of_pairs(name: str, stage: Stage = Stage.DPO, **settled: object) -> Method:
    read = partial(read_preference, method=name)
    return Method(name, stage, read, settled, last_answer_only=True)


SUPERVISED = Method("supervised", Stage.SFT, read_example)
"""A job's that names none."""

METHODS: dict[str, Method] = {
    each.name: each
    for each in (
        SUPERVISED,
        _of_pairs("dpo"),
        _of_pairs("orpo", pref_loss="orpo"),
        _of_pairs("simpo", pref_loss="simpo"),
        Method("kto", Stage.KTO, read_labelled, last_answer_only=True),
        Method("ppo", Stage.PPO, read_example, last_answer_only=True),
        _of_pairs("reward_model", Stage.RM),
        Method("pretrain", Stage.PT, partial(read_example, pretraining=True)),
    )
}
