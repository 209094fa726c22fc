"""How long, how fast and by which optimiser."""

from __future__ import annotations

from typing import Annotated, Literal

from workers.contract.parameters.declaration import (
    MAX_COUNT,
    MEASURED,
    Arguments,
    own,
    param,
)


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
                stages=MEASURED,
            ),
        ]
        | None
    ) = None
    eval_steps: Annotated[
        int,
        param(
            "Whole passes over the validation file every so many steps; 0: at the end of each "
            "epoch.",
            stages=MEASURED,
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
                stages=MEASURED,
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
            stages=MEASURED,
        ),
    ] = False
    save_total_limit: Annotated[
        int, param("Newest checkpoints that stay; older ones stop answering.", ge=1, le=50)
    ] = 3
