"""The model that training starts from, and how it is read."""

from __future__ import annotations

from typing import Annotated, Literal

from workers.contract.parameters.declaration import (
    Arguments,
    own,
)


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
