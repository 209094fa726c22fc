"""A job request with a LLaMA-Factory config becomes one in our own terms.

Errors that the request meets afterwards name the config's keys, by which its sender knows them.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic_core import to_json

from server.config import ModelEntry
from server.errors import (
    ApiError,
    ModelNotFound,
    invalid_value,
    missing_parameter,
    unsupported_value,
)
from server.fine_tuning.hyperparameters import where
from server.fine_tuning.schemas import REQUIRED, CreateJob
from server.llamafactory.translation import WHERE, Translation, schema_of, translate
from server.store.records import NewEvent
from server.validation import validate_body

_FILE_ID = "file-"
_SOURCES = {
    "model": ("adapter_name_or_path", "model_name_or_path"),
    "training_file": ("dataset",),
    "validation_file": ("eval_dataset",),
    "seed": ("seed",),
}
"""Fields of a request, and the keys that fill them: the first that is there."""
_PRIVATE = "default_system"
"""What the operator wrote there is not for callers."""
_MAX_NAMED = 8
"""Models that a refusal names."""


class ConfiguredRequest:
    """`request` is what was asked for in our own terms. Without a config it is as it was sent."""

    def __init__(self, sent: CreateJob, entries: Sequence[ModelEntry]) -> None:
        """Raises InvalidRequest."""
        self._entries = entries
        self._keys: dict[str, str] = {}
        """The config's key of each field that it fills."""
        self._dropped: dict[str, str] = {}
        self._translated: Translation | None = None
        if sent.llamafactory is None:
            self.request = _whole(sent)
            return
        for name in ("method", "hyperparameters"):
            if getattr(sent, name) is not None:
                raise invalid_value(name, f"It and '{WHERE}' exclude each other.")
        self._translated = translate(sent.llamafactory)
        if (refusal := self._translated.refusal) is not None:
            raise refusal
        self._dropped = self._translated.dropped()
        self.request = self._expand(sent, self._translated)

    def check_entry(self, entry: ModelEntry) -> None:
        """What the config says of the model's chat format must be so. Raises InvalidRequest."""
        if self._translated is None:
            return
        self._check_base(entry, self._translated)
        for key, value in self._translated.of_entry.items():
            own = getattr(entry, key)
            if own is None and key == "template":
                self._dropped[key] = (
                    f"'{entry.id}' is trained and served with its own chat template; a `template` "
                    "in its entry would change both"
                )
            elif value != own:
                has = "none" if own is None else "another" if key == _PRIVATE else f"'{own}'"
                raise unsupported_value(
                    f"{WHERE}.{key}",
                    f"'{entry.id}' is trained and served with {has}: leave it out, or set it in "
                    "the model's entry.",
                )

    def _check_base(self, entry: ModelEntry, made: Translation) -> None:
        """Raises InvalidRequest."""
        if made.adapter is None or made.model is None or "model" not in self._keys:
            return
        if self._model_named(made.model) != entry.id:
            raise invalid_value(
                f"{WHERE}.model_name_or_path",
                f"'{self.request.model}' was trained from '{entry.id}': name that, or none.",
            )

    def told(self) -> tuple[NewEvent, ...]:
        """What of the config has no effect, and why."""
        if not self._dropped:
            return ()
        keys_by_reason: dict[str, list[str]] = {}
        for key, reason in self._dropped.items():
            keys_by_reason.setdefault(reason, []).append(key)
        parts = [f"{', '.join(keys)}: {reason}" for reason, keys in keys_by_reason.items()]
        return (NewEvent(f"LLaMA-Factory's settings without effect here: {'; '.join(parts)}"),)

    @contextmanager
    def naming_keys(self) -> Generator[None]:
        """Errors raised inside name what was sent."""
        try:
            yield
        except ModelNotFound as error:
            if "model" in self._keys:
                raise self._no_such_model(error) from None
            raise
        except ApiError as error:
            self._rename(error)
            raise

    def _expand(self, sent: CreateJob, made: Translation) -> CreateJob:
        """Raises InvalidRequest."""
        fields: dict[str, Any] = {
            "seed": made.seed,
            "model": self._model_named(made.adapter or made.model),
            **_files(sent, made),
        }
        for name, sources in _SOURCES.items():
            given = [key for key in sources if made.honours(key)]
            if name in sent.model_fields_set:
                fields[name] = getattr(sent, name)
                taken = f"the request's '{name}' stands in its place"
                self._dropped.update(dict.fromkeys(given, taken))
                continue
            self._keys[name] = f"{WHERE}.{[*given, sources[-1]][0]}"
            if fields[name] == "":
                raise missing_parameter(self._keys[name])
        method = made.method
        assert method is not None, "a stage that is not there is refused"
        for name in schema_of(made).model_fields:
            self._keys[f"{where(method)}.{name}"] = f"{WHERE}.{made.keys.get(name, name)}"
        kept = sent.model_dump(exclude_unset=True, exclude={WHERE})
        chosen = {"type": method, method: {"hyperparameters": made.hyperparameters}}
        with self.naming_keys():
            return validate_body(CreateJob, to_json({**kept, **fields, "method": chosen}))

    def _model_named(self, name: str | None) -> str:
        """The id of the entry that is meant by its id, its directory or its name on a hub; else
        `name`, which may be the id of a fine-tuned model. Raises InvalidRequest."""
        if name is None or any(name == entry.id for entry in self._entries):
            return name or ""
        bases = [entry.id for entry in self._entries if entry.path == name]
        ids = [*bases, *(a.id for entry in self._entries for a in entry.adapters if a.path == name)]
        if len(ids) > 1:
            raise invalid_value(
                f"{WHERE}.model_name_or_path",
                f"It is served as {', '.join(ids[:_MAX_NAMED])}: name the one that is meant.",
            )
        return ids[0] if ids else name

    def _no_such_model(self, error: ModelNotFound) -> ModelNotFound:
        name = self.request.model
        error.param = self._keys["model"]
        served = ", ".join(entry.id for entry in self._entries[:_MAX_NAMED])
        error.message = (
            f"The model '{name}' does not exist or you do not have access to it. It must be one "
            f"of this server's ({served}), by its id or by the path of its entry; another one is "
            "added under `models` of the server's settings."
        )
        return error

    def _rename(self, error: ApiError) -> None:
        key = self._keys.get(error.param or "")
        if key is not None and error.param is not None:
            error.message = error.message.replace(f"'{error.param}'", f"'{key}'", 1)
            error.message = error.message.replace(f"invalid {error.param}:", f"invalid {key}:", 1)
            error.param = key


def _whole(sent: CreateJob) -> CreateJob:
    """Raises InvalidRequest."""
    for name in REQUIRED:
        if name not in sent.model_fields_set:
            raise missing_parameter(name)
    return sent


def _files(sent: CreateJob, made: Translation) -> Mapping[str, str | None]:
    """The ids of files that the config names. Raises InvalidRequest."""
    named = {
        "training_file": ("dataset", made.datasets),
        "validation_file": ("eval_dataset", made.eval_datasets),
    }
    found: dict[str, str | None] = {"training_file": "", "validation_file": None}
    for name, (key, names) in named.items():
        if name in sent.model_fields_set or not names:
            continue
        file_id, *more = names
        if more or not file_id.startswith(_FILE_ID):
            raise invalid_value(
                f"{WHERE}.{key}",
                f"Here it names one uploaded file, by its id, or '{name}' does. `tuneyard train` "
                "finds data sets by their names and uploads them.",
            )
        found[name] = file_id
    return found
