"""Checks what the models' entries say of chat formats before anything starts.

Defaults for thinking that a format cannot honour would have every request refused that does not set
them itself. A model's own Jinja template is read from its directory, in the cache if it is from a
hub; for one that is not there yet there is nothing to ask.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from server.config import Config, EngineKind, ModelEntry
from server.errors import InvalidRequest
from server.hubs.cache import ModelCache
from server.hubs.places import hub_model
from templates.conversation import ChatMessage, Conversation, RenderOptions, Role, TextPart
from templates.format import ChatFormat, FormatError, FormatSettings, TokenizerInfo
from templates.own_templates import read_own_templates
from templates.registry import check_name, open_format
from workers.contract.hello import Capability, Hello

_FIELDS = ("enable_thinking", "reasoning_effort", "thinking_budget")
_ASK = (ChatMessage(Role.USER, (TextPart("Hello"),)),)


def lacks_template(entry: ModelEntry | None, hello: Hello) -> bool:
    """Whether there is nothing that a chat with the model could be rendered with."""
    named = entry is not None and entry.template is not None
    return not (named or hello.chat_templates)


def template_warning(entry: ModelEntry | None, hello: Hello) -> str | None:
    """For the operator, where a model that generates cannot chat."""
    pools = {Capability.EMBED, Capability.SCORE}.intersection(hello.capabilities)
    if pools or not lacks_template(entry, hello):
        return None
    return (
        f"{hello.model}: the model has no chat template, so it serves /v1/completions only; name "
        "one with `template` in its entry (see templates/TEMPLATES.md)"
    )


def no_chat_format(model_id: str, entry: ModelEntry | None, hello: Hello) -> InvalidRequest:
    """What a chat with a model gets whose chat format could not be opened."""
    reason = "has no chat template" if lacks_template(entry, hello) else "has no usable template"
    return InvalidRequest(
        f"The model '{model_id}' {reason}, so it cannot answer conversations. Whoever runs this "
        "server can name one with 'template' in the model's entry; raw prompts can be sent to "
        "/v1/completions.",
        param="model",
        code="model_not_supported",
    )


def cached_directory(entry: ModelEntry) -> Path | None:
    """The model's directory, if it is on this host."""
    model = hub_model(entry)
    return Path(entry.path) if model is None else ModelCache(model).find()


def check_chat_formats(
    config: Config, directory: Callable[[ModelEntry], Path | None] = cached_directory
) -> None:
    """Reads every file in the operator's folders. Raises FormatError, whose message names the file
    and line, or the entry and the field."""
    for entry in config.models:
        check_name(entry.template, config.templates)
        _check_thinking(entry, config.templates, directory)


def _check_thinking(
    entry: ModelEntry,
    folders: tuple[Path, ...],
    directory: Callable[[ModelEntry], Path | None],
) -> None:
    given = entry.generation
    if all(getattr(given, name) is None for name in _FIELDS):
        return
    on_disk = None if entry.engine is EngineKind.SCRIPTED else directory(entry)
    chat_format = _format(entry, folders, on_disk)
    if chat_format is None:
        return
    switched = RenderOptions(
        enable_thinking=given.enable_thinking, reasoning_effort=given.reasoning_effort
    )
    limited = RenderOptions(thinking_budget=given.thinking_budget)
    try:
        chat_format.render(Conversation(_ASK, (), switched))
        chat_format.thinking_budget(Conversation(_ASK, (), limited))
    except FormatError as error:
        if error.param in _FIELDS:
            message = f"models: {entry.id}: generation.{error.param}: {error}"
            raise FormatError(message, error.param) from error


def _format(
    entry: ModelEntry, folders: tuple[Path, ...], on_disk: Path | None
) -> ChatFormat | None:
    """The entry's format, its tokens' texts stood in for; None where it cannot be had here."""
    tokenizer = TokenizerInfo(
        bos_token="<s>",
        eos_token="</s>",
        chat_templates={} if on_disk is None else read_own_templates(on_disk),
    )
    settings = FormatSettings(entry.default_system, entry.tool_format)
    try:
        return open_format(entry.template, tokenizer, folders, settings)
    except FormatError:
        return None
