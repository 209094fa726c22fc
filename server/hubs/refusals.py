"""Why a hub refuses a model, in words that say what to do.

Hugging Face names the reason in `X-Error-Code` (huggingface_hub, `utils/_http.py`); the other two
are read by status alone. Without a token Hugging Face answers 401 for a model that does not exist,
so that private ones cannot be told from it.
"""

from __future__ import annotations

import httpx

from server.hubs.model import HubError, HubModel, HubUnreachableError

_TOKEN_PAGES = {
    "huggingface": "https://huggingface.co/settings/tokens",
    "modelscope": "https://modelscope.cn/my/myaccesstoken",
    "modelers": "https://modelers.cn/my/tokens",
}


def check_answer(model: HubModel, response: httpx.Response) -> None:
    """Raises HubError."""
    status, reason = response.status_code, response.headers.get("X-Error-Code", "")
    if response.is_success:
        return
    if reason == "GatedRepo" or (status == 403 and reason != "RepoNotFound"):
        raise HubError(_gated(model))
    if reason == "RevisionNotFound":
        raise HubError(_unknown_revision(model))
    if status == 401 and model.token is not None and reason != "RepoNotFound":
        raise HubError(
            f"{model.hub.full_name} refuses the token given for {model.name}: it is wrong, revoked "
            f"or expired. Make a new one at {_token_page(model)} and set hub_token."
        )
    if status in (401, 404):
        raise HubError(_unknown_model(model))
    if status == 400:
        raise HubError(f"{model.endpoint} does not accept the request for {model} (status 400).")
    raise HubUnreachableError(f"{model.endpoint} answers with status {status}")


def _gated(model: HubModel) -> str:
    advice = (
        "the token's account has not been given access"
        if model.token is not None
        else "no token is set"
    )
    return (
        f"{model.name} is gated on {model.hub.full_name}, and {advice}. Accept its terms at "
        f"{model.endpoint}/{model.name}, then set hub_token to a token of that account "
        f"({_token_page(model)})."
    )


def _unknown_revision(model: HubModel) -> str:
    return (
        f"{model.name} has no revision {model.revision!r} on {model.hub.full_name}: set revision "
        "to one of its branches, tags or commits."
    )


def _unknown_model(model: HubModel) -> str:
    hint = "" if model.token is not None else "; a private one needs hub_token"
    return (
        f"{model.hub.full_name} ({model.endpoint}) has no model {model.name!r} with a revision "
        f"{model.revision!r}, or it is private{hint}. Check path, revision and hub."
    )


def _token_page(model: HubModel) -> str:
    return _TOKEN_PAGES[model.hub.value]
