"""Writes the table of LLaMA-Factory's keys, `docs/llamafactory.md`.

python -m server.llamafactory.page            # rewrites the page
"""

from __future__ import annotations

from pathlib import Path

from server.llamafactory.keys import (
    READ_IN,
    TABLE,
    Becomes,
    Dropped,
    OfEntry,
    Refused,
    Renamed,
    Treatment,
)
from workers.contract.parameters import settable

PAGE = Path(__file__).resolve().parents[2] / "docs" / "llamafactory.md"

_HEAD = """# LLaMA-Factory's files

A training file of LLaMA-Factory's is a job here:

```sh
tuneyard train config.yaml learning_rate=1e-5   # finds and uploads the data, posts, follows
tuneyard train config.yaml --check              # what becomes of each key; needs no service
```

Over HTTP, `POST /v1/fine_tuning/jobs` takes the same settings as `llamafactory: {...}`, with
`dataset` the id of an uploaded file. `model`, `training_file`, `validation_file` and `seed` beside
it stand in place of its own. A job's second event lists what was dropped, and why.

- Each key is honoured, or dropped with the reason, or refused with what to do instead. null asks
  for nothing, and a key that LLaMA-Factory itself does not read in a stage or kind of fine-tuning
  (`lora_rank` with `full`) is dropped there.
- What a file leaves out is as LLaMA-Factory has it where OpenAI's `auto` would settle it otherwise:
  `num_train_epochs` 3, `per_device_train_batch_size` 8, `gradient_accumulation_steps` 1,
  `learning_rate` 5e-5, and `seed` 42; stage pt packs examples. Without `cutoff_len`, examples are
  cut where the service's own limit is; without `save_steps`, checkpoints follow epochs.
- `model_name_or_path` is one of the server's models: its id, or the directory or the hub's name
  that its entry has. `adapter_name_or_path` is the id of a fine-tuned model to go on from, whose
  rank, alpha and layers stay as they are.
- `template`, `default_system` and `tool_format` are the model entry's, for training and serving
  alike: another one is refused. Where the entry has no `template`, the model's own is used and the
  file's is dropped, which an event tells.
- An inference file (`model_name_or_path`, `template`, `infer_backend`) is a model entry:
  `tuneyard serve --config config.yaml` serves it.

This page is generated: `python -m server.llamafactory.page`. Of the examples that come with
LLaMA-Factory, tests/llamafactory/RESULTS.md tells which are taken.

| key | state | becomes, or why not |
|---|---|---|
"""


def page() -> str:
    declared = settable()
    rows = {key: _row(key, treatment) for key, treatment in TABLE.items()}
    rows |= {key: f"| `{key}` | honoured | `{key}`{_read_in(key)} |\n" for key in declared}
    return _HEAD + "".join(rows[key] for key in sorted(rows))


def _row(key: str, treatment: Treatment) -> str:
    match treatment:
        case Becomes(field):
            state, told = "honoured", f"`{field}`"
        case Renamed(name, note):
            state, told = "honoured", f"`{name}`, {note}"
        case OfEntry():
            state, told = "honoured", f"the model entry's `{key}`, which must be the same"
        case Dropped(why):
            state, told = "dropped", why
        case Refused(advice, plain):
            taken = [f"`{value}`".lower() for value in plain if value not in ("", [])]
            state, told = "refused", advice
            told += f" {', '.join(taken)}: dropped." if taken else ""
    return f"| `{key}` | {state} | {told}{_read_in(key)} |\n"


def _read_in(key: str) -> str:
    places = sorted(READ_IN.get(key, ()))
    return f" (with {' or '.join(places)}; dropped elsewhere)" if places else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
