"""What is trained on."""

from __future__ import annotations

from typing import Annotated

from workers.contract.parameters.declaration import (
    MAX_COUNT,
    MEASURED,
    Arguments,
    Stage,
    own,
    param,
)

_SFT = (Stage.SFT,)


class DataArguments(Arguments, frozen=True):
    train_file: Annotated[str, own("The training file.")]
    validation_file: Annotated[str, own("The validation file.")] | None = None
    cutoff_len: (
        Annotated[
            int,
            param(
                "Longest example in tokens; what is over it is cut. Without one, what the operator "
                "allows. The model's context is the limit where it is shorter.",
                ge=2,
                le=MAX_COUNT,
            ),
        ]
        | None
    ) = None
    max_samples: (
        Annotated[int, param("So many lines of each file are used: the first.", ge=1, le=MAX_COUNT)]
        | None
    ) = None
    val_size: Annotated[
        float,
        param(
            "Examples of the training file that are held out to validate on, as a share below 1 or "
            "a number of them; chosen by the seed. For jobs without a validation file.",
            stages=MEASURED,
            ge=0,
            le=MAX_COUNT,
        ),
    ] = 0.0
    packing: Annotated[
        bool,
        param(
            "Put several short examples into one row, kept apart from each other.",
            stages=(Stage.PT, Stage.SFT),
        ),
    ] = False
    packing_len: (
        Annotated[
            int,
            own(
                "Tokens of a packed row, or those of the longest example; without one, cutoff_len.",
                ge=2,
            ),
        ]
        | None
    ) = None
    train_on_prompt: Annotated[
        bool, param("Learn the prompts too, not the answers alone.", stages=_SFT)
    ] = False
    mask_history: Annotated[
        bool, param("Learn the last answer of a conversation only.", stages=_SFT)
    ] = False
