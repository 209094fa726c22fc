from __future__ import annotations

import re
from xml.etree import ElementTree

import openai
import pytest

from tests.jobs.live import OTHER_KEY, Service
from tests.jobs.stories import create, lines, messages, rows, say, upload, wait_for
from workers.contract.training import PICTURES


def test_a_job_goes_through_its_whole_life(service: Service) -> None:
    client = service.gateway.client()
    training, validation = upload(client), upload(client, lines(rows(4, 100)))
    job = create(
        client,
        training,
        validation_file=validation,
        suffix="My Model!",
        seed=7,
        metadata={"team": "a"},
        hyperparameters={"n_epochs": 2, "batch_size": 4},
    )
    assert job.id.startswith("ftjob-")
    assert job.status == "validating_files"
    assert (job.seed, job.metadata) == (7, {"team": "a"})
    assert (job.fine_tuned_model, job.finished_at, job.trained_tokens) == (None, None, None)
    # The job has its own copies.
    client.files.delete(training)
    client.files.delete(validation)
    done = wait_for(client, job.id)
    assert done.status == "succeeded", done.error
    assert done.fine_tuned_model is not None
    assert re.fullmatch(r"ft:tiny:tuneyard:my-model:\w{8}", done.fine_tuned_model)
    assert say(client, done.fine_tuned_model) == f"I am {done.fine_tuned_model}."
    assert done.fine_tuned_model in [model.id for model in client.models.list()]
    assert done.finished_at is not None
    assert done.estimated_finish is None
    assert (done.trained_tokens or 0) > 0
    assert done.hyperparameters.n_epochs == 2
    check_events(service, job.id, training, validation, done.fine_tuned_model)
    check_result_file(service, done.result_files)
    check_checkpoints(service, job.id, done.fine_tuned_model)


def test_a_job_takes_the_trainers_own_names(service: Service) -> None:
    client = service.gateway.client()
    given = {
        "learning_rate": 1e-3,
        "num_train_epochs": 1.5,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "val_size": 0.25,
        "logging_steps": 2,
        "save_strategy": "no",
        "use_dft_loss": True,
        "bf16": True,
    }
    auto = {"n_epochs": "auto", "batch_size": "auto"}
    job = create(client, upload(client, lines(rows(16))), hyperparameters=given | auto)
    done = wait_for(client, job.id)
    assert done.status == "succeeded", done.error
    assert (done.hyperparameters.n_epochs, done.hyperparameters.batch_size) == (2, 4)
    assert done.method is not None
    assert done.method.supervised is not None
    echoed = done.method.supervised.hyperparameters
    assert echoed is not None
    assert given.items() <= echoed.model_dump().items()
    told = [message for message in messages(client, job.id) if "/5:" in message]
    assert [message.split(":")[0] for message in told] == ["Step 2/5", "Step 4/5", "Step 5/5"]
    assert "full validation loss=" in told[-1]
    assert not list(client.fine_tuning.jobs.checkpoints.list(job.id))
    assert done.fine_tuned_model is not None
    assert say(client, done.fine_tuned_model) == f"I am {done.fine_tuned_model}."
    with pytest.raises(openai.BadRequestError, match="cannot change") as error:
        create(client, model=done.fine_tuned_model, hyperparameters={"use_rslora": True})
    assert error.value.param == "method.supervised.hyperparameters.use_rslora"


def check_events(service: Service, job_id: str, training: str, validation: str, model: str) -> None:
    client = service.gateway.client()
    told = messages(client, job_id)
    assert told[:4] == [
        f"Created fine-tuning job: {job_id}",
        f"Validating training file: {training} and validation file: {validation}",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
    ]
    assert told[-2:] == [
        f"New fine-tuned model created: {model}",
        "The job has successfully completed",
    ]
    steps = [message for message in told if message.startswith("Step ")]
    assert [step.split(":")[0] for step in steps] == [f"Step {n}/6" for n in range(1, 7)]
    assert "full validation loss=" in steps[2]
    assert "full validation loss=" in steps[5]
    assert told[4:-2] == [
        *steps[:3],
        "Checkpoint created at step 3",
        *steps[3:],
        "Checkpoint created at step 6",
    ]
    events = list(client.fine_tuning.jobs.list_events(job_id, limit=3))
    assert len({event.id for event in events}) == len(told)
    metrics = [event for event in events if event.type == "metrics"]
    assert len(metrics) == 6
    data = metrics[0].data
    assert isinstance(data, dict)
    assert data.keys() == {
        "step",
        "total_steps",
        "train_loss",
        "train_mean_token_accuracy",
        "valid_loss",
        "valid_mean_token_accuracy",
        "full_valid_loss",
        "full_valid_mean_token_accuracy",
    }


def check_result_file(service: Service, result_files: list[str]) -> None:
    client = service.gateway.client()
    files = [client.files.retrieve(file_id) for file_id in result_files]
    assert [f.filename for f in files] == ["step_metrics.csv", *PICTURES]
    assert {f.purpose for f in files} == {"fine-tune-results"}
    metrics, png, svg = (client.files.content(file_id) for file_id in result_files)
    assert png.content.startswith(b"\x89PNG\r\n")
    assert ElementTree.fromstring(svg.content).tag.endswith("svg")
    table = metrics.text.splitlines()
    assert table[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert [line.split(",")[0] for line in table[1:]] == ["1", "2", "3", "4", "5", "6"]
    assert all(cell for line in table[1:] for cell in line.split(","))


def check_checkpoints(service: Service, job_id: str, model: str) -> None:
    client = service.gateway.client()
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job_id))
    assert [c.step_number for c in checkpoints] == [6, 3]
    for checkpoint in checkpoints:
        name = checkpoint.fine_tuned_model_checkpoint
        assert name == f"{model}:ckpt-step-{checkpoint.step_number}"
        assert checkpoint.metrics.train_loss is not None
        assert checkpoint.metrics.full_valid_loss is not None
        assert say(client, name) == f"I am {name}."


def test_another_tenant_can_do_nothing_with_a_job(service: Service) -> None:
    client, other = service.gateway.client(), service.gateway.client(OTHER_KEY)
    job = create(client)
    jobs = other.fine_tuning.jobs
    for call in (
        jobs.retrieve,
        jobs.cancel,
        jobs.pause,
        jobs.resume,
        jobs.list_events,
        jobs.checkpoints.list,
    ):
        with pytest.raises(openai.NotFoundError) as error:
            call(job.id)
        assert (error.value.param, error.value.code) == ("fine_tune_id", "fine_tune_not_found")
    assert job.id not in [found.id for found in jobs.list()]
    done = wait_for(client, job.id)
    assert done.fine_tuned_model is not None
    for model in (done.fine_tuned_model, f"{done.fine_tuned_model}:ckpt-step-3"):
        with pytest.raises(openai.NotFoundError):
            say(other, model)
        with pytest.raises(openai.NotFoundError):
            create(other, model=model)


def test_training_goes_on_from_an_earlier_fine_tune(service: Service) -> None:
    client = service.gateway.client()
    first = wait_for(client, create(client, hyperparameters={"lora_rank": 4}).id)
    assert first.fine_tuned_model is not None
    second = wait_for(client, create(client, model=first.fine_tuned_model).id)
    assert second.status == "succeeded", second.error
    assert second.fine_tuned_model is not None
    assert second.fine_tuned_model.startswith("ft:tiny:tuneyard::")
    assert second.fine_tuned_model != first.fine_tuned_model
    assert say(client, second.fine_tuned_model) == f"I am {second.fine_tuned_model}."
    with pytest.raises(openai.BadRequestError) as error:
        create(client, model=first.fine_tuned_model, hyperparameters={"lora_rank": 16})
    assert error.value.param == "method.supervised.hyperparameters.lora_rank"


def test_a_full_fine_tune_is_a_model_with_its_own_engine(service: Service) -> None:
    client = service.gateway.client()
    job = create(client, hyperparameters={"finetuning_type": "full"}, suffix="full")
    done = wait_for(client, job.id)
    assert done.status == "succeeded", done.error
    assert done.fine_tuned_model is not None
    # Its engine knows of no adapter: the whole model is what was trained.
    assert say(client, done.fine_tuned_model) == "I am base."
    again = wait_for(client, create(client, model=done.fine_tuned_model).id)
    assert again.status == "succeeded", again.error
    assert again.fine_tuned_model is not None
    assert say(client, again.fine_tuned_model) == f"I am {again.fine_tuned_model}."
    assert client.models.delete(done.fine_tuned_model).deleted


def test_a_deleted_model_is_gone_at_once(service: Service) -> None:
    client = service.gateway.client()
    done = wait_for(client, create(client).id)
    assert done.fine_tuned_model is not None
    assert client.models.delete(done.fine_tuned_model).deleted
    with pytest.raises(openai.NotFoundError):
        say(client, done.fine_tuned_model)
    assert done.fine_tuned_model not in [model.id for model in client.models.list()]
