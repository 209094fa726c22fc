"""Every way of training by its name."""

from __future__ import annotations

from collections.abc import Callable

from workers.contract.parameters import Stage
from workers.contract.training import TrainSpec
from workers.trainer.stages.kto import LabelledAnswers
from workers.trainer.stages.pairs import Pairs
from workers.trainer.stages.ppo import PolicyOptimisation
from workers.trainer.stages.pt import Pretraining
from workers.trainer.stages.rm import RewardPairs
from workers.trainer.stages.sft import Supervised
from workers.trainer.stages.stage import TrainingStage

STAGES: dict[Stage, Callable[[TrainSpec], TrainingStage]] = {
    Stage.PT: Pretraining.open,
    Stage.SFT: Supervised.open,
    Stage.RM: RewardPairs.open,
    Stage.DPO: Pairs.open,
    Stage.KTO: LabelledAnswers.open,
    Stage.PPO: PolicyOptimisation.open,
}
