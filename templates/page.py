"""Writes the list of chat templates, `TEMPLATES.md`, from the registry.

python -m templates.page            # rewrites the page
"""

from __future__ import annotations

from pathlib import Path

from templates.family import EosUse, Family, SystemPlace
from templates.models import model_table
from templates.registry import built_in_families

PAGE = Path(__file__).parent / "TEMPLATES.md"

_HEAD = """# Chat templates

A model that ships a chat template of its own uses that one, unless its entry names another. These
are the named ones, in LLaMA-Factory's behaviour. More can be dropped into a `templates/` folder
named in the configuration: a `.yaml` file of definitions (`templates/family_file.py` lists the
fields) or a `NAME.jinja` file.

This page is generated: `python -m templates.page`.

| template | tool dialect | thinking words | media | ends by | stop words | notes |
|---|---|---|---|---|---|---|
"""

_ENDS = {
    EosUse.WRITTEN: "its own text",
    EosUse.REPLACED: "first stop word",
    EosUse.IMPLIED: "eos",
}


def page() -> str:
    families = sorted(built_in_families().values(), key=lambda family: family.name)
    rows = "\n".join(map(_row, families))
    return f"{_HEAD}{rows}\n\n{_models()}"


def _row(family: Family) -> str:
    thinking = family.thinking
    words = f"{_code(thinking.open)} … {_code(thinking.close)}" if thinking else ""
    notes = [family.note] if family.note else []
    if family.system_place is SystemPlace.FIRST_USER:
        notes.append("system text in the first user message")
    if family.default_system:
        notes.append("has a default system message")
    cells = [
        _code(family.name),
        family.dialect,
        words,
        ", ".join(family.media),
        _ENDS[family.eos],
        " ".join(map(_code, family.stop)),
        _plain("; ".join(notes)),
    ]
    return f"| {' | '.join(cells)} |"


def _models() -> str:
    lines = [
        "## Models",
        "",
        "By exact name on a hub. Names in italics are base models, to be fine-tuned with it.",
        "",
        "| template | models |",
        "|---|---|",
    ]
    table = model_table()
    for template in sorted({entry.template for entry in table.values()}):
        names = sorted(
            ((name, entry) for name, entry in table.items() if entry.template == template),
            key=lambda pair: (not pair[1].is_chat, pair[0].lower()),
        )
        shown = (name if entry.is_chat else f"*{name}*" for name, entry in names)
        lines.append(f"| {_code(template)} | {', '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    return f"`{_plain(text)}`"


def _plain(text: str) -> str:
    return text.replace("\n", "\\n").replace("|", "\\|")


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
