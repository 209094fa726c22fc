"""Projects, keys, limits and the audit log through the official SDK's `client.admin`."""

from __future__ import annotations

import time

import openai
import pytest

from server.auth import KEY_TTL_S
from tests.gateway.conftest import ADMIN_KEY, KEY, MODEL, wait_for
from tests.organization.conftest import PROJECT, Service, chat, status_of

GUARD_S = 60 * KEY_TTL_S


def test_a_project_is_created_listed_retrieved_and_renamed(service: Service) -> None:
    projects = service.admin().projects
    made = projects.create(name="Research")
    assert made.id.startswith("proj_")
    assert (made.name, made.status, made.archived_at) == ("Research", "active", None)
    assert projects.retrieve(made.id) == made
    assert projects.update(made.id, name="Studies").name == "Studies"
    listed = [project.id for project in projects.list(limit=1)]
    assert {PROJECT, made.id} <= set(listed)
    assert len(listed) == len(set(listed))
    with pytest.raises(openai.NotFoundError) as error:
        projects.retrieve("proj_none")
    assert error.value.code == "project_not_found"
    for wrong in ({"name": ""}, {"name": "a\nb"}, {"name": "x", "geography": "EU"}):
        with pytest.raises(openai.BadRequestError):
            projects.create(**wrong)


def test_a_service_account_s_key_is_told_once_and_works_at_once(service: Service) -> None:
    admin = service.admin()
    project = admin.projects.create(name="CI")
    accounts, keys = admin.projects.service_accounts, admin.projects.api_keys
    made = accounts.create(project.id, name="builder", expires_in_seconds=3600)
    assert (made.name, made.role) == ("builder", "member")
    value = made.api_key.value
    assert value.startswith("sk-")
    assert chat(service.one, value).headers["openai-project"] == project.id
    assert chat(service.two, value).status_code == 200
    [key] = list(keys.list(project.id))
    assert (key.id, key.name) == (made.api_key.id, "builder")
    assert key.owner.service_account.id == made.id
    assert key.expires_at == key.created_at + 3600
    assert value[:7] in key.redacted_value
    assert value not in key.model_dump_json()
    assert keys.retrieve(key.id, project_id=project.id).id == key.id
    assert [account.id for account in accounts.list(project.id)] == [made.id]
    assert accounts.retrieve(made.id, project_id=project.id).name == "builder"
    with pytest.raises(openai.NotFoundError):
        keys.retrieve(key.id, project_id=PROJECT)
    with pytest.raises(openai.BadRequestError) as error:
        accounts.create(project.id, name="x", create_service_account_only=True)
    assert error.value.param == "create_service_account_only"
    assert accounts.delete(made.id, project_id=project.id).deleted
    assert status_of(service.one, value) == 401
    wait_for(lambda: status_of(service.two, value) == 401, GUARD_S)


def test_a_deleted_key_ends_at_every_gateway(service: Service) -> None:
    admin = service.admin()
    made = admin.projects.service_accounts.create(PROJECT, name="short")
    value = made.api_key.value
    assert [status_of(gateway, value) for gateway in (service.one, service.two)] == [200, 200]
    deleted = admin.projects.api_keys.delete(made.api_key.id, project_id=PROJECT)
    assert (deleted.id, deleted.deleted) == (made.api_key.id, True)
    assert status_of(service.one, value) == 401
    wait_for(lambda: status_of(service.two, value) == 401, GUARD_S)
    with pytest.raises(openai.NotFoundError):
        admin.projects.service_accounts.retrieve(made.id, project_id=PROJECT)


def test_a_key_expires_by_itself(service: Service) -> None:
    accounts = service.admin().projects.service_accounts
    made = accounts.create(PROJECT, name="brief", expires_in_seconds=1)
    wait_for(lambda: status_of(service.one, made.api_key.value) == 401, GUARD_S)
    assert time.time() >= made.api_key.expires_at


def test_an_archived_project_s_keys_end_and_its_objects_stay(service: Service) -> None:
    admin = service.admin()
    project = admin.projects.create(name="Old")
    value = admin.projects.service_accounts.create(project.id, name="a").api_key.value
    client = service.one.client(api_key=value)
    file = client.files.create(file=("a.txt", b"kept"), purpose="user_data")
    archived = admin.projects.archive(project.id)
    assert archived.status == "archived"
    assert archived.archived_at >= project.created_at
    assert status_of(service.one, value) == 401
    wait_for(lambda: status_of(service.two, value) == 401, GUARD_S)
    assert project.id not in [p.id for p in admin.projects.list()]
    assert project.id in [p.id for p in admin.projects.list(include_archived=True)]
    assert list(admin.projects.api_keys.list(project.id)) == []
    for change in (
        lambda: admin.projects.update(project.id, name="New"),
        lambda: admin.projects.archive(project.id),
        lambda: admin.projects.service_accounts.create(project.id, name="b"),
    ):
        with pytest.raises(openai.BadRequestError) as error:
            change()
        assert error.value.code == "project_archived"
    stored = (service.one.config.files_dir).rglob("*")
    assert b"kept" in [path.read_bytes() for path in stored if path.is_file()]
    assert file.id


def test_the_default_project_is_not_archived(service: Service) -> None:
    with pytest.raises(openai.BadRequestError):
        service.admin().projects.archive("proj_default")


def test_admin_keys_make_and_end_one_another(service: Service) -> None:
    keys = service.admin().admin_api_keys
    made = keys.create(name="second", expires_in_seconds=3600)
    assert made.value.startswith("sk-admin-")
    assert made.expires_at == made.created_at + 3600
    assert keys.retrieve(made.id).name == "second"
    assert made.value not in keys.retrieve(made.id).model_dump_json()
    newest_first = [key.id for key in keys.list(order="desc", limit=1)]
    oldest_first = [key.id for key in keys.list(order="asc", limit=1)]
    assert newest_first == oldest_first[::-1]
    assert made.id in newest_first
    second = service.admin(made.value).admin_api_keys
    assert second.delete(made.id).deleted
    with pytest.raises(openai.AuthenticationError):
        second.list()
    with pytest.raises(openai.NotFoundError):
        keys.retrieve(made.id)


def test_an_admin_key_opens_administration_only_and_an_ordinary_one_the_rest(
    service: Service,
) -> None:
    refused = service.call("GET", "/v1/organization/projects", KEY)
    assert refused.status_code == 403
    assert refused.json()["error"] == {
        "message": "You have insufficient permissions for this operation. Please use an admin key.",
        "type": "invalid_request_error",
        "param": None,
        "code": "insufficient_permissions",
    }
    for method, path in (("GET", "/v1/models"), ("GET", "/v1/files"), ("POST", "/v1/embeddings")):
        answer = service.call(method, path, ADMIN_KEY)
        assert (answer.status_code, answer.json()["error"]["code"]) == (
            403,
            "insufficient_permissions",
        )
    assert chat(service.one, ADMIN_KEY).status_code == 403
    for path in ("/v1/organization/projects", "/v1/models"):
        assert service.call("GET", path, "sk-admin-unknown").status_code == 401


def test_parameters_that_are_not_there_are_refused(service: Service) -> None:
    for path, name in (
        ("/v1/organization/projects", "order"),
        ("/v1/organization/usage/completions?start_time=0", "user_ids[]"),
        ("/v1/organization/usage/completions?start_time=0", "batch"),
        (f"/v1/organization/projects/{PROJECT}/rate_limits", "before"),
    ):
        answer = service.call("GET", f"{path}{'&' if '?' in path else '?'}{name}=1")
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (
            400,
            "unknown_parameter",
            name,
        )
    unknown = service.call("GET", "/v1/organization/projects?after=proj_none")
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "after")
    missing = service.call("GET", "/v1/organization/users")
    assert missing.json()["error"]["code"] == "unsupported_endpoint"


def test_the_audit_log_says_who_did_what(service: Service) -> None:
    admin = service.admin()
    [own] = [key for key in admin.admin_api_keys.list() if key.name == "test"]
    project = admin.projects.create(name="Watched")
    made = admin.projects.service_accounts.create(
        project.id, name="a", extra_body={"scopes": ["chat"]}
    )
    admin.projects.rate_limits.update_rate_limit(
        f"rl-{MODEL}", project_id=project.id, max_requests_per_1_minute=5
    )
    admin.projects.update(project.id, name="Seen")
    admin.projects.api_keys.delete(made.api_key.id, project_id=project.id)
    admin.projects.archive(project.id)
    logs = admin.audit_logs
    entries = list(logs.list(project_ids=[project.id], limit=2))
    assert [entry.type for entry in entries] == [
        "project.archived",
        "service_account.deleted",
        "api_key.deleted",
        "project.updated",
        "rate_limit.updated",
        "api_key.created",
        "service_account.created",
        "project.created",
    ]
    assert {entry.actor.api_key.id for entry in entries} == {own.id}
    assert {entry.project.name for entry in entries} == {"Seen"}
    assert entries[5].api_key_created.id == made.api_key.id
    assert entries[5].api_key_created.data.scopes == ["chat"]
    assert entries[4].rate_limit_updated.changes_requested.max_requests_per_1_minute == 5
    assert entries[3].project_updated.changes_requested.title == "Seen"
    keys = logs.list(resource_ids=[made.api_key.id], event_types=["api_key.deleted"])
    assert [entry.id for entry in keys] == [entries[2].id]
    newer = logs.list(project_ids=[project.id], before=entries[2].id, limit=1)
    assert [entry.id for entry in newer.data] == [entries[1].id]
    assert list(logs.list(effective_at={"gt": int(time.time()) + 3600})) == []
    assert entries[0].id in [e.id for e in logs.list(effective_at={"gte": project.created_at})]
    assert list(logs.list(project_ids=[project.id], actor_ids=["key_none"])) == []
