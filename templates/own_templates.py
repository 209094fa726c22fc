"""A model directory's own chat templates, read without its tokenizer.

Where transformers looks for them: `chat_template.jinja`, those by name in
`additional_chat_templates/`, else `chat_template` in `tokenizer_config.json` (a text, or a list of
`{name, template}`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast


def read_own_templates(folder: Path) -> dict[str, str]:
    """By name; empty where there is none that can be read."""
    try:
        templates = _configured(folder / "tokenizer_config.json")
        main = folder / "chat_template.jinja"
        if main.is_file():
            templates = {"default": main.read_text(encoding="utf-8")}
        for file in sorted((folder / "additional_chat_templates").glob("*.jinja")):
            templates[file.stem] = file.read_text(encoding="utf-8")
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return templates


def _configured(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    own: Any = json.loads(file.read_bytes()).get("chat_template")
    if isinstance(own, str):
        return {"default": own}
    return {entry["name"]: entry["template"] for entry in cast(list[dict[str, str]], own or [])}
