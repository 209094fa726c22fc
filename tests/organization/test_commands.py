"""`tuneyard projects|keys|usage` on the data of a running service."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import yaml

from server.auth import KEY_TTL_S
from tests.gateway.conftest import DEADLINE_S, MODEL, wait_for
from tests.organization.conftest import Service, chat, status_of


def tuneyard(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = service.one.config.data / "commands.yaml"
    settings.write_text(yaml.safe_dump({"data": str(service.one.config.data)}))
    return subprocess.run(
        [sys.executable, "-m", "server.cli", *arguments, "-c", str(settings)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        env={**os.environ, "COLUMNS": "240"},
    )


def row_of(table: str, text: str) -> str:
    [line] = [line for line in table.splitlines() if text in line]
    return line


def test_a_project_its_keys_and_its_usage_are_administered_in_the_terminal(
    service: Service,
) -> None:
    project = tuneyard(service, "projects", "create", "Terminal").stdout.strip()
    assert project.startswith("proj_")
    assert "Terminal" in row_of(tuneyard(service, "projects", "list").stdout, project)
    limits = ("--scope", "chat", "--scope", "files:read", "--models", MODEL, "--expires", "30d")
    made = tuneyard(service, "keys", "create", "ci", "--project", project, *limits)
    key = made.stdout.strip()
    assert chat(service.one, key).headers["openai-project"] == project
    assert chat(service.one, key, model="asleep").status_code == 403
    assert service.call("DELETE", "/v1/files/file-x", key).status_code == 403
    line = row_of(tuneyard(service, "keys", "list").stdout, project)
    assert f"chat, files:read, {MODEL}" in line
    assert key not in line
    wait_for(lambda: project in tuneyard(service, "usage", "--days", "2").stdout)
    counted = row_of(
        tuneyard(service, "usage", "--by", "project", "--project", project).stdout, project
    )
    assert [cell.strip() for cell in counted.split("│")][2] == "1"
    assert tuneyard(service, "projects", "archive", project).returncode == 0
    wait_for(lambda: status_of(service.one, key) == 401, 60 * KEY_TTL_S)
    assert project not in tuneyard(service, "projects", "list").stdout
    assert project in tuneyard(service, "projects", "list", "--all").stdout
    assert project not in tuneyard(service, "keys", "list").stdout
    again = tuneyard(service, "projects", "archive", project)
    assert (again.returncode, again.stdout) == (1, "")
    assert "no live project" in again.stderr


def test_the_first_admin_key_is_made_in_the_terminal(service: Service) -> None:
    key = tuneyard(service, "keys", "create", "boss", "--admin", "--expires", "12h").stdout.strip()
    assert key.startswith("sk-admin-")
    [made] = [found for found in service.admin(key).admin_api_keys.list() if found.name == "boss"]
    assert made.expires_at == made.created_at + 12 * 3600
    [entry] = list(service.admin(key).audit_logs.list(resource_ids=[made.id]))
    assert (entry.type, entry.actor.type) == ("api_key.created", "session")
    assert entry.actor.session.user.id == "operator"
    assert "(admin)" in row_of(tuneyard(service, "keys", "list").stdout, made.id)
    assert tuneyard(service, "keys", "revoke", made.id).returncode == 0
    path = "/v1/organization/projects"
    wait_for(lambda: service.call("GET", path, key).status_code == 401, 60 * KEY_TTL_S)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--scope", "chats"), "a scope is one of chat"),
        (("--expires", "soon"), "90m, 12h or 30d"),
        (("--models", " , "), "at least one model"),
        (("--project", "proj_none"), "no live project 'proj_none'"),
        (("--admin", "--scope", "chat"), "of no project"),
    ],
)
def test_a_key_that_cannot_be_made_is_refused_in_a_line(
    service: Service, options: tuple[str, ...], said: str
) -> None:
    done = tuneyard(service, "keys", "create", "x", *options)
    assert (done.returncode != 0, done.stdout) == (True, "")
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
