"""Every parameter of a training run, declared once: its type, range, default and meaning, who sets
it, and the stages and kinds of fine-tuning it belongs to.

Names, defaults and meanings are LLaMA-Factory's and Hugging Face's, grouped as there. What is
declared here is read by the service for its wire schema and `openapi.yaml`, for what it refuses as
belonging elsewhere and for `docs/parameters.md`; and by the trainer, whose spec does not decode
where a value is out of its range. A new parameter is a declaration, and the line that acts on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

MAX_COUNT = 2**31 - 1
"""More than any number of steps, tokens or examples can be."""


class Stage(StrEnum):
    PT = "pt"
    SFT = "sft"
    RM = "rm"
    DPO = "dpo"
    KTO = "kto"
    PPO = "ppo"


class FinetuningType(StrEnum):
    LORA = "lora"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a parameter has a meaning. Empty means everywhere."""

    stages: tuple[Stage, ...] = ()
    types: tuple[FinetuningType, ...] = ()
    is_settable: bool = True
    """Whether a job sets it; the others are the service's own."""
    instead_of: str | None = None
    """OpenAI's hyperparameter that it takes the place of. A job that does not set it has it from
    there, whatever its default."""


def param(
    doc: str,
    *,
    stages: tuple[Stage, ...] = (),
    types: tuple[FinetuningType, ...] = (),
    instead_of: str | None = None,
    **limits: Any,
) -> msgspec.Meta:
    """A parameter that a job sets. `limits` are those of `msgspec.Meta`: ge, gt, le, lt, pattern,
    min_length, max_length."""
    place = Place(stages, types, instead_of=instead_of)
    return msgspec.Meta(description=doc, extra={"place": place}, **limits)


def own(doc: str, *, stages: tuple[Stage, ...] = (), **limits: Any) -> msgspec.Meta:
    """A parameter that the service sets."""
    place = Place(stages, is_settable=False)
    return msgspec.Meta(description=doc, extra={"place": place}, **limits)


_LORA = (FinetuningType.LORA,)
_SFT = (Stage.SFT,)
_DPO = (Stage.DPO,)
_KTO = (Stage.KTO,)
_PREFERENCE = (Stage.DPO, Stage.KTO)
_PPO = (Stage.PPO,)
_MEASURED = tuple(stage for stage in Stage if stage is not Stage.PPO)
"""Stages with a loss on rows that are not trained on."""
LOSS_OF = {"dpo_label_smoothing": "sigmoid", "simpo_gamma": "simpo"}
"""Parameters of one `pref_loss` alone."""


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A group of parameters. One that is unknown does not decode."""


class ModelArguments(Arguments, frozen=True):
    model_name_or_path: Annotated[str, own("Directory of the base model.")]
    adapter_name_or_path: (
        Annotated[
            str,
            own(
                "Adapter directory to go on training from: its rank, alpha and targets stay as "
                "they are. A full run starts from the base with the adapter merged in."
            ),
        ]
        | None
    ) = None
    template: (
        Annotated[str, own("Named chat format; without one, the model's own Jinja template.")]
        | None
    ) = None
    template_folders: Annotated[
        tuple[str, ...], own("Folders with chat formats of the operator's own.")
    ] = ()
    default_system: (
        Annotated[str, own("System message of conversations that have none.")] | None
    ) = None
    tool_format: (
        Annotated[str, own("Tool-call dialect, where it is not the chat format's own.")] | None
    ) = None
    trust_remote_code: Annotated[bool, own("Run code that comes with the model.")] = False
    compute_dtype: Annotated[
        Literal["float32", "bfloat16"], own("Type that matrix products are computed in.")
    ] = "float32"
    device: Annotated[str, own("Device to train on; auto takes CUDA where it is.")] = "auto"
    train_from_scratch: Annotated[
        bool, own("Start from random weights of the model's config (pretraining).")
    ] = False


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
            stages=_MEASURED,
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


class FinetuningArguments(Arguments, frozen=True):
    stage: Annotated[Stage, own("What is trained: follows from the job's method.")] = Stage.SFT
    finetuning_type: Annotated[
        FinetuningType, param("Which weights are trained: those of an adapter, or all.")
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
            pattern=r"^\s*[A-Za-z0-9_.]+\s*(,\s*[A-Za-z0-9_.]+\s*)*$",
        ),
    ] = "all"

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
    def alpha(self) -> int:
        return 2 * self.lora_rank if self.lora_alpha is None else self.lora_alpha


class TrainingArguments(Arguments, frozen=True):
    num_train_epochs: Annotated[
        float,
        param(
            "Passes over the training file, of which the last may be a part. Excludes n_epochs, "
            "which is it rounded up.",
            instead_of="n_epochs",
            gt=0,
            le=50,
        ),
    ] = 3.0
    max_steps: (
        Annotated[
            int,
            param(
                "End the training after so many steps, whatever the epochs say.",
                ge=1,
                le=MAX_COUNT,
            ),
        ]
        | None
    ) = None
    per_device_train_batch_size: Annotated[
        int,
        param(
            "Examples at once: 1 where gradient_accumulation_steps stands alone. The product of "
            "both is batch_size, which they exclude.",
            instead_of="batch_size",
            ge=1,
            le=256,
        ),
    ] = 1
    gradient_accumulation_steps: Annotated[
        int,
        param(
            "Batches before a step: 1 where per_device_train_batch_size stands alone.",
            instead_of="batch_size",
            ge=1,
            le=256,
        ),
    ] = 1
    learning_rate: Annotated[
        float,
        param(
            "Highest learning rate, as it is. Excludes learning_rate_multiplier, which scales one "
            "that follows from the model's width.",
            instead_of="learning_rate_multiplier",
            gt=0,
        ),
    ] = 5e-5
    lr_scheduler_type: Annotated[
        Literal[
            "linear",
            "cosine",
            "cosine_with_restarts",
            "polynomial",
            "constant",
            "constant_with_warmup",
            "inverse_sqrt",
        ],
        param("How the learning rate goes over the steps."),
    ] = "linear"
    warmup_ratio: Annotated[
        float, param("Share of the steps in which the learning rate rises.", ge=0, le=1)
    ] = 0.0
    warmup_steps: Annotated[
        int,
        param(
            "Steps in which the learning rate rises; 0: as warmup_ratio says.", ge=0, le=MAX_COUNT
        ),
    ] = 0
    weight_decay: Annotated[float, param("Decay of all but biases and norms.", ge=0, le=10)] = 0.0
    max_grad_norm: Annotated[
        float, param("Norm that gradients are clipped to; 0 leaves them.", ge=0)
    ] = 1.0
    optim: Annotated[
        Literal["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"],
        param("The optimiser."),
    ] = "adamw_torch"
    adam_beta1: Annotated[float, param("How long AdamW remembers gradients.", ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, param("How long AdamW remembers their squares.", ge=0, lt=1)] = (
        0.999
    )
    adam_epsilon: Annotated[
        float, param("What AdamW adds to the root of the squares.", ge=0, le=1)
    ] = 1e-8
    bf16: (
        Annotated[
            bool,
            param(
                "Compute matrix products in bfloat16, with trained weights in float32; false: in "
                "float32. Without it, as the operator set."
            ),
        ]
        | None
    ) = None
    fp16: Annotated[
        bool, param("Refused if true: the trainer does not scale losses. See bf16.")
    ] = False
    gradient_checkpointing: Annotated[
        bool,
        param("Compute activations again for the gradient instead of keeping them: less memory."),
    ] = False
    disable_gradient_checkpointing: (
        Annotated[
            bool, param("LLaMA-Factory's opposite of gradient_checkpointing; false turns it on.")
        ]
        | None
    ) = None
    neftune_noise_alpha: (
        Annotated[
            float,
            param(
                "Noise on the embeddings while training, uniform up to this over the root of "
                "tokens times width (NEFTune, arXiv:2310.05914).",
                gt=0,
                le=1000,
            ),
        ]
        | None
    ) = None
    seed: Annotated[int, own("Seed of all that is random: a job's own `seed`.", ge=0)] = 42
    logging_steps: Annotated[
        int,
        param("Steps between two reports, which tell of all since the last.", ge=1, le=MAX_COUNT),
    ] = 1
    plot_loss: Annotated[
        bool,
        param(
            "Draw the curves of the loss and of what else is measured: loss_curve.png and "
            "loss_curve.svg among the result files."
        ),
    ] = True
    eval_strategy: (
        Annotated[
            Literal["no", "steps", "epoch"],
            param(
                "When whole passes over the validation file are; null: as eval_steps says.",
                stages=_MEASURED,
            ),
        ]
        | None
    ) = None
    eval_steps: Annotated[
        int,
        param(
            "Whole passes over the validation file every so many steps; 0: at the end of each "
            "epoch.",
            stages=_MEASURED,
            ge=0,
            le=MAX_COUNT,
        ),
    ] = 0
    save_steps: Annotated[
        int,
        param("Checkpoints every so many steps; 0: at the end of each epoch.", ge=0, le=MAX_COUNT),
    ] = 0
    save_strategy: (
        Annotated[
            Literal["no", "steps", "epoch"],
            param(
                "When checkpoints are, of which the end of the training is one unless it is 'no'; "
                "null: as save_steps says."
            ),
        ]
        | None
    ) = None
    early_stopping_steps: (
        Annotated[
            int,
            param(
                "End the training once the loss on the validation data has not fallen for so many "
                "evaluations.",
                stages=_MEASURED,
                ge=1,
                le=MAX_COUNT,
            ),
        ]
        | None
    ) = None
    load_best_model_at_end: Annotated[
        bool,
        param(
            "The result is the checkpoint with the lowest loss on the validation data, not the "
            "last one. Checkpoints and evaluations have to be at the same steps.",
            stages=_MEASURED,
        ),
    ] = False
    save_total_limit: Annotated[
        int, param("Newest checkpoints that stay; older ones stop answering.", ge=1, le=50)
    ] = 3


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


GROUPS: tuple[type[Arguments], ...] = (
    ModelArguments,
    DataArguments,
    FinetuningArguments,
    TrainingArguments,
    PPOArguments,
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A declaration, read back."""

    name: str
    group: type[Arguments]
    type: Any
    """As annotated, limits included."""
    default: Any
    meta: msgspec.Meta

    @property
    def doc(self) -> str:
        return self.meta.description or ""

    @property
    def place(self) -> Place:
        assert self.meta.extra is not None, "param and own set it"
        return self.meta.extra["place"]

    def is_of(self, *, stage: Stage | None = None, kind: FinetuningType | None = None) -> bool:
        """Whether it has a meaning there."""
        stages, types = self.place.stages, self.place.types
        return (not stages or stage is None or stage in stages) and (
            not types or kind is None or kind in types
        )

    @property
    def unset(self) -> Any:
        """What a job has that does not set it: None where another one stands in."""
        return None if self.place.instead_of else self.default

    @property
    def home(self) -> str:
        """Where it belongs, in words."""
        stages, types = self.place.stages, self.place.types
        parts = [f"stage {' or '.join(stages)}"] if stages else []
        parts += [f"finetuning_type {' or '.join(types)}"] if types else []
        return " with ".join(parts) or "every run"


def parameters(groups: Sequence[type[Arguments]] = GROUPS) -> dict[str, Parameter]:
    """Those of `groups` by name, in the order of their declarations."""
    return {
        field.name: Parameter(field.name, group, field.type, field.default, _meta(field.type))
        for group in groups
        for field in msgspec.structs.fields(group)
    }


def settable(stage: Stage | None = None) -> dict[str, Parameter]:
    """Those that a job sets: of `stage`, or of any."""
    return {
        name: each
        for name, each in parameters().items()
        if each.place.is_settable and each.is_of(stage=stage)
    }


def _meta(annotation: Any) -> msgspec.Meta:
    """Of `Annotated[T, meta]` or `Annotated[T, meta] | None`."""
    if get_origin(annotation) is Annotated:
        return get_args(annotation)[1]
    return next(_meta(part) for part in get_args(annotation) if get_origin(part) is Annotated)
