"""`tuneyard keys` beside a running service, and the keys that `API_KEY` may hold."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from server.auth import KEY_TTL_S
from tests.gateway.conftest import DEADLINE_S, wait_for
from tests.gateway.test_serve import CONFIG, Service


def tuneyard(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    (folder / "tuneyard.yaml").write_text(CONFIG)
    return subprocess.run(
        [sys.executable, "-m", "server.cli", *arguments, "-c", str(folder / "tuneyard.yaml")],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        env={**os.environ, "COLUMNS": "80", **variables},
    )


def accepts(service: Service, key: str) -> bool:
    client = openai.OpenAI(base_url=service.find(r"URL +(\S+)"), api_key=key, max_retries=2)
    with client:
        try:
            client.models.list()
        except openai.AuthenticationError:
            return False
    return True


def test_keys_are_made_listed_and_ended_beside_a_running_service(tmp_path: Path) -> None:
    service = Service(tmp_path)
    try:
        made = tuneyard(tmp_path, "keys", "create", "ci")
        key = made.stdout.strip()
        assert key.startswith("sk-")
        assert accepts(service, key)
        listed = tuneyard(tmp_path, "keys", "list").stdout
        [line] = [line for line in listed.splitlines() if " ci " in line]
        key_id = next(word for word in line.split() if word.startswith("key_"))
        assert key[:7] in line
        assert key not in listed
        ended = tuneyard(tmp_path, "keys", "revoke", key_id)
        assert (ended.returncode, ended.stdout) == (0, "")
        wait_for(lambda: not accepts(service, key), deadline_s=30 * KEY_TTL_S)
        assert key_id not in tuneyard(tmp_path, "keys", "list").stdout
        assert key_id in tuneyard(tmp_path, "keys", "list", "--all").stdout
        again = tuneyard(tmp_path, "keys", "revoke", key_id)
        assert again.returncode == 1
        assert "no live key" in again.stderr
        assert service.say_hi() == "hello"
    finally:
        service.process.terminate()
        service.process.wait(DEADLINE_S)
    readable = [
        path
        for path in (tmp_path / "data", *(tmp_path / "data").rglob("*"))
        if stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    assert readable == []


@pytest.mark.parametrize(
    ("host", "key", "said"),
    [
        ("0.0.0.0", "fifteen-letters", "API_KEY has 15 characters"),
        ("127.0.0.1", "two words", "API_KEY cannot be sent in a header"),
    ],
)
def test_a_key_that_can_be_guessed_or_not_be_sent_is_refused(
    tmp_path: Path, host: str, key: str, said: str
) -> None:
    done = tuneyard(tmp_path, "serve", HOST=host, API_KEY=key)
    assert done.returncode == 1
    assert said in done.stdout
    assert key not in done.stdout
