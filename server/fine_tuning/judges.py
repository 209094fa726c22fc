"""The models that a ppo job asks beside the one it trains: what scores its answers, and the
reference that they are held to."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from server.config import Config, Media
from server.errors import invalid_value, missing_parameter
from server.fine_tuning.hyperparameters import Hyperparameters
from server.media.addresses import AddressPolicy
from server.media.problems import MediaProblem
from server.store import Store
from server.store.records import Model, Project
from workers.contract.model_files import VALUE_HEAD_FILE
from workers.contract.parameters import Stage

_API, _FULL, _LORA = "api", "full", "lora"
_WHAT = {_LORA: "an adapter", _FULL: "a whole model"}


class JudgePaths(TypedDict, total=False):
    """Fields of a job's plan."""

    reward_model: str
    reward_model_type: str
    reference_path: str
    reference_adapter_path: str | None


class Judges:
    def __init__(self, store: Store, config: Config) -> None:
        self._store = store
        hosts = config.training.reward_hosts
        self._addresses = AddressPolicy(Media(allowed_hosts=hosts, private_hosts=hosts))

    async def find(self, project: Project, policy: Model, wanted: Hyperparameters) -> JudgePaths:
        """Nothing for a job of another method. Raises InvalidRequest."""
        if wanted.method.stage is not Stage.PPO:
            return {}
        where = f"{wanted.where()}.reward_model"
        name: str | None = wanted.of("reward_model")
        if name is None:
            raise missing_parameter(where)
        kind: str | None = wanted.of("reward_model_type")
        if kind == _API:
            found = JudgePaths(reward_model=await self._url(name, where), reward_model_type=_API)
        else:
            found = await self._reward_model(project, policy, name, kind, where)
        reference: str | None = wanted.of("ref_model")
        if reference is not None:
            found |= await self._reference(project, reference, f"{wanted.where()}.ref_model")
        return found

    async def _url(self, url: str, where: str) -> str:
        try:
            await self._addresses.locate(url)
        except MediaProblem as problem:
            reason = "Expected a URL of http or https, of a host under training.reward_hosts of "
            raise invalid_value(where, f"{reason}this server's settings.") from problem
        return url

    async def _reward_model(
        self, project: Project, policy: Model, name: str, kind: str | None, where: str
    ) -> JudgePaths:
        model = await self._model(project, name, where)
        own = _LORA if model.adapter_uid is not None else _FULL
        if not (Path(model.path) / VALUE_HEAD_FILE).is_file():
            raise invalid_value(
                where, f"'{name}' is no reward model: train one with method.type 'reward_model'."
            )
        if kind not in (None, own):
            raise invalid_value(
                f"{where}_type", f"'{name}' is {_WHAT[own]}: leave it out, or set '{own}'."
            )
        if own == _LORA and model.engine_model != policy.engine_model:
            raise invalid_value(where, f"'{name}' is an adapter of another model than the job's.")
        return {"reward_model": model.path, "reward_model_type": own}

    async def _reference(self, project: Project, name: str, where: str) -> JudgePaths:
        model = await self._model(project, name, where)
        whole = model
        if model.adapter_uid is not None:
            whole = await self._model(project, model.engine_model, where)
        if not (Path(whole.path) / "config.json").exists():
            raise invalid_value(where, f"The files of '{name}' are not on this server.")
        adapter = model.path if model.adapter_uid is not None else None
        return {"reference_path": whole.path, "reference_adapter_path": adapter}

    async def _model(self, project: Project, name: str, where: str) -> Model:
        """One of the project's own, or of all."""
        model = await self._store.models.find(name, project.id)
        if model is None or model.project_id not in (None, project.id):
            raise invalid_value(where, f"There is no model '{name}'.")
        return model
