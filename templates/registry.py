"""Finds the chat format of a model: a named one, or the model's own Jinja template.

Names are looked up in an operator's folders first (`*.yaml` holds named templates, `NAME.jinja` is
one Jinja template), then among the built-in families. `jinja` and `jinja:NAME` name the model's own
templates outright.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from importlib import resources
from pathlib import Path

from templates.family import Family
from templates.family_file import FamilyFileError, parse_families, read_family_file
from templates.format import AS_IT_IS, ChatFormat, FormatError, FormatSettings, TokenizerInfo
from templates.jinja_format import JinjaFormat
from templates.jinja_renderer import check_template, default_template
from templates.named import NamedFormat

OWN_TEMPLATE = "jinja"


def open_format(
    name: str | None,
    tokenizer: TokenizerInfo,
    folders: tuple[Path, ...] = (),
    settings: FormatSettings = AS_IT_IS,
) -> ChatFormat:
    """The format called `name` (built in, or a file of an operator's `folders`); with None, the
    model's own Jinja template. Raises FormatError when there is none."""
    if name is None or name == OWN_TEMPLATE or name.startswith(f"{OWN_TEMPLATE}:"):
        return _own_template(name, tokenizer, settings)
    dropped_in = read_folders(folders)
    if name in dropped_in.jinja:
        return JinjaFormat(name, {"default": dropped_in.jinja[name]}, tokenizer, settings)
    family = dropped_in.families.get(name) or built_in_families().get(name)
    if family is None:
        raise _unknown(name)
    if settings.tool_format is not None:
        family = family.speaking(settings.tool_format)
    if settings.default_system is not None:
        family = replace(family, default_system=settings.default_system)
    return NamedFormat(family, tokenizer)


def check_name(name: str | None, folders: tuple[Path, ...] = ()) -> None:
    """What can be checked of a name without the model. Raises FormatError."""
    dropped_in = read_folders(folders)
    if name is None or name == OWN_TEMPLATE or name.startswith(f"{OWN_TEMPLATE}:"):
        return
    if name not in dropped_in.jinja | dropped_in.families | built_in_families():
        raise _unknown(name)


def _unknown(name: str) -> FormatError:
    return FormatError(f"There is no chat format named '{name}'.", "template")


def _own_template(
    name: str | None, tokenizer: TokenizerInfo, settings: FormatSettings
) -> ChatFormat:
    templates = tokenizer.chat_templates
    if not templates:
        raise FormatError(
            "The model ships no chat template: name one for it with `template`.", "template"
        )
    wanted = (name or "").partition(":")[2]
    if wanted:
        if wanted not in templates:
            known = ", ".join(sorted(templates))
            raise FormatError(
                f"The model has no chat template named '{wanted}'; it has: {known}.", "template"
            )
        chosen = {"default": templates[wanted]}
        return JinjaFormat(f"{OWN_TEMPLATE}:{wanted}", chosen, tokenizer, settings)
    default_template(templates)
    return JinjaFormat(OWN_TEMPLATE, templates, tokenizer, settings)


@lru_cache(maxsize=1)
def built_in_families() -> dict[str, Family]:
    """Every built-in named template, by name."""
    families: dict[str, Family] = {}
    folder = resources.files("templates") / "families"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    for file in files:
        found = parse_families(file.read_text(encoding="utf-8"), file.name, families)
        for twice in found.keys() & families.keys():
            raise ValueError(f"{file.name} defines {twice!r} a second time")
        families |= found
    return families


class DroppedIn:
    """What an operator's folders hold."""

    def __init__(self) -> None:
        self.families: dict[str, Family] = {}
        self.jinja: dict[str, str] = {}


def read_folders(folders: tuple[Path, ...]) -> DroppedIn:
    """Reads and checks every `.yaml` and `.jinja` file. Raises FormatError with file and line."""
    found = DroppedIn()
    for folder in folders:
        if not folder.is_dir():
            raise FormatError(f"The templates folder {folder} does not exist.", "templates")
        for path in sorted(folder.iterdir()):
            if path.suffix == ".yaml":
                _add_families(found, path)
            elif path.suffix == ".jinja":
                source = path.read_text(encoding="utf-8")
                check_template(source, str(path))
                found.jinja[path.stem] = source
    return found


def _add_families(found: DroppedIn, path: Path) -> None:
    try:
        families = read_family_file(path, {**built_in_families(), **found.families})
    except FamilyFileError as error:
        raise FormatError(str(error), "templates") from error
    found.families |= families
