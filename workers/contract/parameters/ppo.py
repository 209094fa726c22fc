"""What training on a policy's own answers takes besides."""

from __future__ import annotations

from typing import Annotated, Literal

from workers.contract.parameters.declaration import MAX_COUNT, Arguments, Stage, own, param

_PPO = (Stage.PPO,)


class PPOArguments(Arguments, frozen=True):
    reward_model: (
        Annotated[
            str,
            param(
                "What scores the answers; needed. The id of a reward model of this server, or with "
                "reward_model_type api the URL of a server that answers as /v1/score/evaluation.",
                stages=_PPO,
                min_length=1,
                max_length=2048,
            ),
        ]
        | None
    ) = None
    reward_model_type: (
        Annotated[
            Literal["lora", "full", "api"],
            param(
                "What reward_model is: an adapter of the job's base with a value head, a whole "
                "model with one, or a URL; null: as the model of that id is.",
                stages=_PPO,
            ),
        ]
        | None
    ) = None
    ref_model: (
        Annotated[
            str,
            param(
                "Id of the model that answers are held to; without one, the model as the job "
                "starts from it.",
                stages=_PPO,
                min_length=1,
                max_length=512,
            ),
        ]
        | None
    ) = None
    ref_model_adapters: (
        Annotated[str, own("Adapter directory of the reference.", stages=_PPO)] | None
    ) = None
    ppo_buffer_size: Annotated[
        int,
        param(
            "A step answers so many times batch_size prompts before it learns from any.",
            stages=_PPO,
            ge=1,
            le=256,
        ),
    ] = 1
    ppo_epochs: Annotated[
        int, param("Passes over the answers of a step.", stages=_PPO, ge=1, le=64)
    ] = 4
    ppo_score_norm: Annotated[
        bool,
        param("Scale scores by the mean and spread of all so far.", stages=_PPO),
    ] = False
    ppo_target: Annotated[
        float,
        param(
            "Divergence from the reference, summed over an answer, that the weight of its penalty "
            "is steered to.",
            stages=_PPO,
            gt=0,
            le=1e6,
        ),
    ] = 6.0
    ppo_whiten_rewards: Annotated[
        bool, param("Scale rewards of tokens to unit variance.", stages=_PPO)
    ] = False
    max_new_tokens: Annotated[
        int,
        param("Longest answer in tokens, within the context.", stages=_PPO, ge=1, le=65536),
    ] = 1024
    temperature: Annotated[float, param("Temperature of the answers.", stages=_PPO, gt=0, le=2)] = (
        0.95
    )
    top_p: Annotated[
        float, param("Answers are drawn from the likeliest of this share.", stages=_PPO, gt=0, le=1)
    ] = 0.7
    top_k: Annotated[
        int,
        param(
            "Answers are drawn from so many of the likeliest tokens; 0: from all.",
            stages=_PPO,
            ge=0,
            le=MAX_COUNT,
        ),
    ] = 50
    repetition_penalty: Annotated[
        float,
        param("Divides the scores of tokens that stand already.", stages=_PPO, gt=0, le=10),
    ] = 1.0
