"""Which weights are trained, and by which loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from workers.contract.parameters.declaration import (
    Arguments,
    FinetuningType,
    Stage,
    own,
    param,
)

_LORA = (FinetuningType.LORA,)
_FREEZE = (FinetuningType.FREEZE,)
_OFT = (FinetuningType.OFT,)
_ADAPTERS = (FinetuningType.LORA, FinetuningType.OFT)
_SFT = (Stage.SFT,)
_DPO = (Stage.DPO,)
_KTO = (Stage.KTO,)
_PREFERENCE = (Stage.DPO, Stage.KTO)
_NAMES = r"^\s*[A-Za-z0-9_.]+\s*(,\s*[A-Za-z0-9_.]+\s*)*$"
LOSS_OF = {"dpo_label_smoothing": "sigmoid", "simpo_gamma": "simpo"}
"""Parameters of one `pref_loss` alone."""


class FinetuningArguments(Arguments, frozen=True):
    stage: Annotated[Stage, own("What is trained: follows from the job's method.")] = Stage.SFT
    finetuning_type: Annotated[
        FinetuningType,
        param("Which weights are trained: those of an adapter, some of the layers, or all."),
    ] = FinetuningType.LORA
    lora_rank: Annotated[int, param("Rank of the factors.", types=_LORA, ge=1, le=512)] = 8
    lora_alpha: (
        Annotated[
            int,
            param(
                "Scale of the factors, divided by the rank; without one, twice the rank.",
                types=_LORA,
                ge=1,
                le=4096,
            ),
        ]
        | None
    ) = None
    lora_dropout: Annotated[
        float, param("Dropout before the factors.", types=_LORA, ge=0, lt=1)
    ] = 0.0
    lora_target: Annotated[
        str,
        param(
            "Layers with factors: all linear ones but the output layer, or names separated by "
            "commas.",
            types=_LORA,
            pattern=_NAMES,
        ),
    ] = "all"

    additional_target: (
        Annotated[
            str,
            param(
                "Other modules that are trained whole beside the factors, such as "
                "`embed_tokens,lm_head`: names separated by commas. The result is merged.",
                types=_LORA,
                pattern=_NAMES,
            ),
        ]
        | None
    ) = None
    pissa_init: Annotated[
        bool,
        param(
            "Start from the principal factors of the weights (PiSSA, arXiv:2404.02948). The result "
            "is merged, or converted by pissa_convert.",
            types=_LORA,
        ),
    ] = False
    pissa_iter: Annotated[
        int,
        param(
            "Iterations of the fast decomposition of pissa_init; -1: the exact one.",
            types=_LORA,
            ge=-1,
            le=1000,
        ),
    ] = 16
    pissa_convert: Annotated[
        bool,
        param(
            "Write a plain adapter, of twice the rank, which fits the base as it is (pissa_init).",
            types=_LORA,
        ),
    ] = False
    create_new_adapter: Annotated[
        bool,
        param(
            "Merge the adapter that the job starts from into the base, and train a new one. The "
            "result is merged.",
            types=_LORA,
        ),
    ] = False
    merge: Annotated[
        Literal["auto", "always", "never"],
        param(
            "Whether the adapter is merged into a whole model at the end: auto where no engine of "
            "the model serves it as it is; never refuses such a job.",
            types=_ADAPTERS,
        ),
    ] = "auto"
    oft_rank: Annotated[
        int,
        param(
            "Number of blocks of a rotation; 0: as oft_block_size says.", types=_OFT, ge=0, le=4096
        ),
    ] = 0
    oft_block_size: Annotated[
        int,
        param(
            "Width of a block; one that does not divide a layer's inputs is moved to the nearest "
            "that does.",
            types=_OFT,
            ge=2,
            le=4096,
        ),
    ] = 32
    oft_target: Annotated[
        str,
        param(
            "Layers that are rotated: all linear ones but the output layer, or names separated by "
            "commas.",
            types=_OFT,
            pattern=_NAMES,
        ),
    ] = "all"
    module_dropout: Annotated[
        float, param("Share of the blocks that rest in a step.", types=_OFT, ge=0, lt=1)
    ] = 0.0
    freeze_trainable_layers: Annotated[
        int,
        param(
            "How many of the last layers are trained; of the first where it is negative.",
            types=_FREEZE,
            ge=-1024,
            le=1024,
        ),
    ] = 2
    freeze_trainable_modules: Annotated[
        str,
        param(
            "Parts of these layers that are trained: all, or names separated by commas, such as "
            "`self_attn,mlp`.",
            types=_FREEZE,
            pattern=_NAMES,
        ),
    ] = "all"
    freeze_extra_modules: (
        Annotated[
            str,
            param(
                "Parts outside of the layers that are trained too, such as `embed_tokens,norm`.",
                types=_FREEZE,
                pattern=_NAMES,
            ),
        ]
        | None
    ) = None
    pref_beta: Annotated[
        float,
        param(
            "Strength of the preference. Excludes beta, which says the same up to 2.",
            stages=_PREFERENCE,
            instead_of="beta",
            gt=0,
            le=100,
        ),
    ] = 0.1
    pref_loss: Annotated[
        Literal["sigmoid", "hinge", "ipo", "kto_pair", "orpo", "simpo"],
        param("Loss of a pair of answers; orpo and simpo need no reference.", stages=_DPO),
    ] = "sigmoid"
    pref_ftx: Annotated[
        float,
        param(
            "Share of the preferred answer's own loss per token that is added; for kto, of every "
            "desirable answer's.",
            stages=_PREFERENCE,
            ge=0,
            le=100,
        ),
    ] = 0.0
    dpo_label_smoothing: Annotated[
        float,
        param(
            "Share of the pairs that are taken to be the wrong way round (pref_loss sigmoid).",
            stages=_DPO,
            ge=0,
            lt=0.5,
        ),
    ] = 0.0
    simpo_gamma: Annotated[
        float,
        param(
            "Margin that SimPO asks of the rewards (pref_loss simpo).", stages=_DPO, ge=0, le=100
        ),
    ] = 0.5
    kto_chosen_weight: Annotated[
        float, param("Weight of the loss of desirable answers.", stages=_KTO, ge=0, le=100)
    ] = 1.0
    kto_rejected_weight: Annotated[
        float, param("Weight of the loss of undesirable answers.", stages=_KTO, ge=0, le=100)
    ] = 1.0
    use_rslora: Annotated[
        bool,
        param("Scale the factors by alpha over the root of the rank (rsLoRA).", types=_LORA),
    ] = False
    use_dora: Annotated[
        bool,
        param(
            "Train the lengths of the weights' columns beside the factors (DoRA, "
            "arXiv:2402.09353). The hf engine alone serves it.",
            types=_LORA,
        ),
    ] = False
    loraplus_lr_ratio: (
        Annotated[
            float,
            param(
                "Learning rate of the second factors over that of the first (LoRA+, "
                "arXiv:2402.12354).",
                types=_LORA,
                gt=0,
                le=1000,
            ),
        ]
        | None
    ) = None
    use_dft_loss: Annotated[
        bool,
        param("Weigh each token's loss by its probability (DFT, arXiv:2508.05629).", stages=_SFT),
    ] = False
    use_asft_loss: Annotated[
        bool,
        param(
            "As use_dft_loss, held to the model without its adapter (ASFT, arXiv:2509.23753).",
            stages=_SFT,
            types=_LORA,
        ),
    ] = False
    asft_alpha: Annotated[
        float,
        param("How strongly use_asft_loss holds.", stages=_SFT, types=_LORA, ge=0, le=1000),
    ] = 0.1
    use_eaft_loss: Annotated[
        bool,
        param(
            "Weigh each token's loss by the entropy of the likeliest twenty (EAFT, "
            "arXiv:2601.02151).",
            stages=_SFT,
        ),
    ] = False
    eaft_alpha: Annotated[
        float, param("Power of use_eaft_loss's weight.", stages=_SFT, ge=0, le=100)
    ] = 1.0
    pure_bf16: Annotated[
        bool,
        param(
            "Hold all weights in bfloat16, those that are trained too, and compute in it. Half the "
            "memory of bf16, but updates of less than about 0.4 % of a weight are lost."
        ),
    ] = False

    @property
    def merges(self) -> bool:
        """Whether what is trained as an adapter becomes a whole model."""
        return self.merge == "always" or self.must_merge

    @property
    def must_merge(self) -> bool:
        """No engine serves such an adapter on the base as it is."""
        return must_merge(msgspec.structs.asdict(self).get) is not None

    @property
    def alpha(self) -> int:
        return 2 * self.lora_rank if self.lora_alpha is None else self.lora_alpha


def must_merge(value: Callable[[str], Any]) -> str | None:
    """The parameter whose adapters no engine serves on the base as it is; `value` gives one by its
    name."""
    if value("finetuning_type") == FinetuningType.OFT:
        return "finetuning_type"
    if value("pissa_init") and not value("pissa_convert"):
        return "pissa_init"
    return next((name for name in ("additional_target", "create_new_adapter") if value(name)), None)
