"""One run, from its spec to its last event."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from workers.contract.parameters import parameters
from workers.contract.training import Completed, Stopped, TrainFailed, TrainSpec, Warned
from workers.trainer.arguments import check_arguments
from workers.trainer.events import UNSENT, EventLog
from workers.trainer.failures import (
    InvalidHyperparameters,
    StopRequested,
    TrainerError,
    as_trainer_error,
)
from workers.trainer.room import Room
from workers.trainer.stopping import StopRequest

_UNKNOWN_FIELD = re.compile("unknown field `(.+?)`")
_log = logging.getLogger(__name__)


def run_file(path: Path, stop: StopRequest) -> bool:
    """As `run`. Raises OSError or MsgspecError for a spec that does not say where its events go."""
    content = path.read_bytes()
    try:
        spec = msgspec.json.decode(content, type=TrainSpec)
    except msgspec.ValidationError as error:
        output_dir = Path(msgspec.json.decode(content, type=_Whereabouts).output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        log = EventLog(output_dir / "events.ndjson", stop)
        log.emit(_failed(_unreadable(error)))
        log.close()
        return False
    return run(spec, stop)


class _Whereabouts(msgspec.Struct):
    output_dir: str


def _unreadable(error: msgspec.ValidationError) -> InvalidHyperparameters:
    """msgspec ends its message with the place, such as `$.training.seed`, or names the field that
    it does not know."""
    reason, _, place = str(error).partition(" - at ")
    unknown = _UNKNOWN_FIELD.search(reason)
    name = unknown[1] if unknown else place.strip("`").rpartition(".")[2]
    return InvalidHyperparameters(f"'{name}' cannot be used: {reason}.", name)


def run(spec: TrainSpec, stop: StopRequest) -> bool:
    """Trains as told; False when the run has failed. Ends in one of Completed, Stopped and
    TrainFailed, but for a kill."""
    output_dir = Path(spec.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    try:
        log = EventLog(output_dir / "events.ndjson", stop)
    except StopRequested:
        return True
    if log.history.completed:
        return True
    last: Completed | Stopped | TrainFailed
    try:
        with log.heartbeat():
            last = _train(spec, log, stop)
    except StopRequested:
        last = Stopped(seq=UNSENT, at=UNSENT, step=_saved_step(output_dir))
    except Exception as error:
        _log_trace(error)
        last = _failed(as_trainer_error(error))
    with suppress(StopRequested):  # the disk is full, and the run goes on from what it has saved
        log.emit(last)
    log.close()
    return not isinstance(last, TrainFailed)


def _failed(failure: TrainerError) -> TrainFailed:
    return TrainFailed(
        seq=UNSENT, at=UNSENT, code=failure.code, message=failure.message, param=failure.param
    )


def _train(spec: TrainSpec, log: EventLog, stop: StopRequest) -> Completed:
    """The heavy imports come after the first heartbeat and the checks that need none."""
    check_arguments(spec)
    stop.check()
    from workers.trainer.exports import Exports
    from workers.trainer.loop import Loop
    from workers.trainer.optimisation import build_optimisation
    from workers.trainer.packing import check_packing
    from workers.trainer.preparation import prepare_data
    from workers.trainer.processes import OneProcess
    from workers.trainer.stages.table import STAGES
    from workers.trainer.state import StateFolder

    output_dir = Path(spec.output_dir)
    stage = STAGES[spec.finetuning.stage](spec)
    model = stage.model
    processes = OneProcess()
    processes.wrap(model)
    stop.check()
    if spec.data.packing:
        check_packing(model)
    data, warnings = prepare_data(spec, stage, stop)
    if not log.history.last_step:
        for message in [*model.notes, *warnings]:
            log.emit(Warned(seq=UNSENT, at=UNSENT, message=message))
    schedule = data.schedule(spec)
    room = Room(log, stop)
    loop = Loop(
        arguments=spec.training,
        schedule=schedule,
        stage=stage,
        data=data,
        optimisation=build_optimisation(spec, model, schedule.total_steps),
        log=log,
        exports=Exports(output_dir, stage.export, spec.training.save_total_limit, room),
        states=StateFolder(output_dir / "state", fingerprint(spec), room, processes),
        stop=stop,
        processes=processes,
    )
    progress = loop.run()
    if progress.step < schedule.total_steps:
        _tell_of_end(log, progress.step)
    is_best = spec.training.load_best_model_at_end and progress.best_step > 0
    path = loop.exports.final(progress.best_step if is_best else progress.step)
    if spec.training.plot_loss:
        _draw(output_dir, room, log)
    return Completed(
        seq=UNSENT,
        at=UNSENT,
        step=progress.step,
        path=str(path),
        trained_tokens=progress.trained_tokens,
    )


def _tell_of_end(log: EventLog, step: int) -> None:
    message = f"Training ended at step {step}: the loss on the validation data falls no more."
    log.emit(Warned(seq=UNSENT, at=UNSENT, message=message))


def _draw(output_dir: Path, room: Room, log: EventLog) -> None:
    """A training is done without its pictures too. Raises StopRequested."""
    try:
        from workers.trainer.curves import draw_curves

        draw_curves(output_dir, room)
    except StopRequested:
        raise
    except Exception as error:
        _log_trace(error)
        log.emit(Warned(seq=UNSENT, at=UNSENT, message="The curves could not be drawn."))


def fingerprint(spec: TrainSpec) -> Mapping[str, str]:
    """Arguments a state belongs to: those of its stage. Paths and devices may change when a run
    moves."""
    moved = {"model_name_or_path", "adapter_name_or_path", "train_file", "validation_file"}
    moved |= {"reward_model", "ref_model", "ref_model_adapters"}
    free = moved | {"device", "trust_remote_code", "save_total_limit"}
    groups = (spec.model, spec.data, spec.finetuning, spec.training, spec.ppo)
    declared = parameters()
    return {
        name: str(value)
        for group in groups
        for name, value in msgspec.structs.asdict(group).items()
        if name not in free and declared[name].is_of(stage=spec.finetuning.stage)
    }


def _saved_step(output_dir: Path) -> int:
    steps = (int(path.stem.removeprefix("step-")) for path in output_dir.glob("state/step-*.pt"))
    return max(steps, default=0)


def _log_trace(error: Exception) -> None:
    """Frames and kinds only: an exception's text may quote a row of the training file."""
    if isinstance(error, TrainerError):
        _log.error("the run failed: %s (%s)", error.message, error.code)
        return
    chain: BaseException | None = error
    while chain is not None:
        frames = "".join(traceback.format_tb(chain.__traceback__))
        _log.error("%s\n%s", type(chain).__name__, frames)
        chain = chain.__cause__ or chain.__context__
