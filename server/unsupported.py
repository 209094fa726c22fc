"""OpenAI's endpoints that this server does not have, and what to use in their stead: a caller is
told so, and does not look for a mistake in his URL."""

from __future__ import annotations

from server.errors import ApiError, NotFound

_CHAT = "Use /v1/chat/completions"
_NOTHING = "There is nothing here that takes its place."
_ADMINISTRATION = (
    "Here are projects, their api_keys, service_accounts and rate_limits, admin_api_keys, "
    "usage/completions, usage/embeddings, costs and audit_logs."
)
_ELSEWHERE = (
    "certificates",
    "data_retention",
    "external_keys",
    "external_storage",
    "groups",
    "invites",
    "roles",
    "spend_alerts",
    "spend_limit",
    "usage/audio_speeches",
    "usage/audio_transcriptions",
    "usage/code_interpreter_sessions",
    "usage/decisions",
    "usage/file_search_calls",
    "usage/images",
    "usage/moderations",
    "usage/vector_stores",
    "usage/web_search_calls",
    "users",
    "workload_identity_providers",
)
"""Parts of OpenAI's administration that are not here."""
_OF_PROJECTS = frozenset(
    {
        "certificates",
        "data_retention",
        "groups",
        "hosted_tool_permissions",
        "model_permissions",
        "roles",
        "service_tier_settings",
        "spend_alerts",
        "spend_limit",
        "users",
    }
)
"""Such parts of a project."""
_ENDPOINTS: dict[str, tuple[str, str]] = {
    "/v1/agents": ("Agents", f"{_CHAT} or /v1/responses with 'tools'."),
    "/v1/answers": ("Answers", f"{_CHAT}."),
    "/v1/assistants": ("Assistants", f"{_CHAT}, with the instructions as its first message."),
    "/v1/audio": ("Audio", f"{_CHAT}, which takes sound as 'input_audio' where the model does."),
    "/v1/chatkit": ("ChatKit", _NOTHING),
    "/v1/classifications": ("Classifications", f"{_CHAT} with 'guided_choice'."),
    "/v1/containers": ("Containers", _NOTHING),
    "/v1/content_provenance_checks": ("Content provenance checks", _NOTHING),
    "/v1/conversations": ("Conversations", "Use 'previous_response_id' of /v1/responses."),
    "/v1/decisions": ("Decisions", _NOTHING),
    "/v1/edits": ("Edits", f"{_CHAT}."),
    "/v1/engines": ("Engines", "Use /v1/models."),
    "/v1/evals": ("Evals", "A fine-tuning job takes a 'validation_file'."),
    "/v1/fine-tunes": ("Fine-tunes", "Use /v1/fine_tuning/jobs."),
    "/v1/images": ("Images", f"{_CHAT}, which takes pictures as 'image_url'; none are made here."),
    "/v1/live": ("Live sessions", f"{_CHAT} with 'stream'."),
    "/v1/moderations": ("Moderations", _NOTHING),
    **{f"/v1/organization/{part}": ("Administration", _ADMINISTRATION) for part in _ELSEWHERE},
    "/v1/projects": ("Roles of projects", "Use /v1/organization/projects."),
    "/v1/realtime": ("Realtime", f"{_CHAT} with 'stream'."),
    "/v1/responses/compact": ("Compaction", "Send the items that you want to keep."),
    "/v1/safety": ("Safety", _NOTHING),
    "/v1/search": ("Search", "Use /v1/embeddings, with an index of your own."),
    "/v1/skills": ("Skills", _NOTHING),
    "/v1/threads": ("Threads", f"{_CHAT}, and send the messages so far with each request."),
    "/v1/vector_stores": ("Vector stores", "Use /v1/embeddings, with an index of your own."),
    "/v1/vaults": ("Vaults", _NOTHING),
    "/v1/videos": ("Videos", _NOTHING),
    "/v1/webhook_endpoints": ("Webhook endpoints", "Whoever runs this server configures them."),
    "/v1/webhook_event_types": ("Webhook endpoints", "Whoever runs this server configures them."),
}


def find_unsupported(method: str, path: str) -> ApiError | None:
    """The refusal of a path that nothing here answers, if OpenAI has it."""
    if _is_of_project(path):
        return _refusal(method, path, "Administration", _ADMINISTRATION)
    for prefix, (name, instead) in _ENDPOINTS.items():
        if path == prefix or path.startswith(f"{prefix.rstrip('/')}/"):
            return _refusal(method, path, name, instead)
    return None


def _is_of_project(path: str) -> bool:
    _, found, rest = path.partition("/v1/organization/projects/")
    parts = rest.split("/")
    if not found or len(parts) < 2:
        return False
    return parts[1] in _OF_PROJECTS or (parts[1] == "service_accounts" and len(parts) > 3)


def _refusal(method: str, path: str, name: str, instead: str) -> ApiError:
    return NotFound(
        f"{method} {path}: OpenAI's '{name}' is not supported by this server. {instead}",
        code="unsupported_endpoint",
    )
