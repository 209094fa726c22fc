"""What a key may do: parts of the API, and models."""

from __future__ import annotations

from typing import Any

import pytest

from server.app import create_app
from server.auth import ADMINISTRATION
from server.config import Config
from server.scopes import SCOPES
from tests.gateway.conftest import MODEL
from tests.organization.conftest import PROJECT, Service, chat

SHARING = "/v1/fine_tuning/checkpoints"


def make_key(service: Service, **limits: Any) -> str:
    accounts = service.admin().projects.service_accounts
    made = accounts.create(PROJECT, name="limited", extra_body=limits)
    value: str = made.api_key.value
    return value


def error_of(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_every_route_is_part_of_a_scope() -> None:
    paths = [path for path in create_app(Config()).openapi()["paths"] if path.startswith("/v1/")]
    parts = {path.split("/")[2] for path in paths if not path.startswith(ADMINISTRATION)}
    assert parts == set(SCOPES)


def test_a_scoped_key_opens_its_scopes_and_nothing_else(service: Service) -> None:
    key = make_key(service, scopes=["chat", "files:read"])
    assert chat(service.one, key).status_code == 200
    assert service.call("GET", "/v1/files", key).status_code == 200
    assert service.call("HEAD", "/v1/files", key).status_code == 200
    for method, path, missing in (
        ("POST", "/v1/files", "files"),
        ("DELETE", "/v1/files/file-x", "files"),
        ("GET", "/v1/models", "models:read"),
        ("POST", "/v1/completions", "completions"),
        ("POST", "/v1/embeddings", "embeddings"),
        ("POST", "/v1/fine_tuning/jobs", "fine_tuning"),
        ("POST", "/v1/uploads", "uploads"),
        ("GET", "/v1/nothing/here", "nothing:read"),
        ("GET", "/v1", ":read"),
    ):
        answer = service.call(method, path, key)
        assert error_of(answer) == (403, "insufficient_permissions"), path
        assert answer.json()["error"]["message"].endswith(f"Missing scopes: {missing}.")


def test_a_key_of_some_models_sees_and_uses_those_only(service: Service) -> None:
    key = make_key(service, models=[MODEL])
    other = make_key(service, models=["asleep"])
    assert chat(service.one, key).status_code == 200
    assert chat(service.one, key, model="asleep").status_code == 403
    refused = chat(service.one, other)
    assert error_of(refused) == (403, "model_not_found")
    assert refused.json()["error"]["param"] == "model"
    listed = service.call("GET", "/v1/models", key).json()["data"]
    assert [model["id"] for model in listed] == [MODEL]
    assert service.call("GET", f"/v1/models/{MODEL}", key).status_code == 200
    for method, path, body in (
        ("GET", f"/v1/models/{MODEL}", None),
        ("DELETE", f"/v1/models/{MODEL}", None),
        ("POST", "/v1/fine_tuning/jobs", {"model": MODEL, "training_file": "file-x"}),
        ("POST", "/v1/completions", {"model": MODEL, "prompt": "say hello"}),
        ("POST", "/v1/embeddings", {"model": MODEL, "input": "a"}),
        ("POST", "/v1/score/evaluation", {"model": MODEL, "messages": ["a"]}),
        ("GET", f"{SHARING}/ft:x/permissions", None),
        ("POST", f"{SHARING}/ft:x/permissions", {"project_ids": ["p"]}),
        ("DELETE", f"{SHARING}/ft:x/permissions/cp_1", None),
    ):
        assert error_of(service.call(method, path, other, json=body)) == (403, "model_not_found")


@pytest.mark.parametrize(
    "limits",
    [{"scopes": ["chats"]}, {"scopes": []}, {"models": []}, {"scopes": ["chat"] * 101}, {"x": 1}],
)
def test_a_key_with_limits_that_mean_nothing_is_not_made(
    service: Service, limits: dict[str, Any]
) -> None:
    path = f"/v1/organization/projects/{PROJECT}/service_accounts"
    answer = service.call("POST", path, json={"name": "x", **limits})
    assert answer.status_code == 400
    assert str(answer.json()["error"]["param"]).startswith(next(iter(limits)))
