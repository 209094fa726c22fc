"""What the repository says of itself is true."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from server.app import create_app
from server.config import Config

ROOT = Path(__file__).resolve().parent.parent


def test_openapi_yaml_is_the_document_of_the_app() -> None:
    written = yaml.safe_load((ROOT / "openapi.yaml").read_text(encoding="utf-8"))
    assert written == create_app(Config()).openapi(), "run `make openapi`"


def test_the_document_knows_no_422_and_no_path_without_a_key() -> None:
    paths = create_app(Config()).openapi()["paths"]
    for path, methods in paths.items():
        for operation in methods.values():
            assert "422" not in operation["responses"]
            assert path.startswith("/v1") == ("security" in operation)


def test_every_path_in_the_readmes_tree_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"## How it is laid out\n+```\n(.*?)```", text, re.DOTALL)
    assert tree is not None
    lines = tree[1].splitlines()
    assert len(lines) > 20
    path: list[str] = []
    for line in lines:
        depth = (len(line) - len(line.lstrip())) // 2
        path[depth:] = [line.split(maxsplit=1)[0]]
        assert ROOT.joinpath(*path).exists(), "/".join(path)
