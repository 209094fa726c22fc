"""The whole story, from an empty data directory to a fine-tuned model that answers."""

from __future__ import annotations

import pytest

from tests.e2e import new_fact
from tests.e2e.conftest import Server
from tests.e2e.story import BASE, Story, tell_story

MAX_TRAINING_S = 240.0
"""Far more than a fine-tune on fifty examples takes on two cores, so that a busy machine passes."""


@pytest.fixture(scope="module")
def story(server: Server) -> Story:
    return tell_story(server.base_url, server.api_key, lambda text: None)


@pytest.mark.slow
def test_the_base_model_is_worth_talking_to(story: Story) -> None:
    assert story.fact == story.streamed == "The capital of France is Paris."
    assert story.curled == "A cow says moo."


@pytest.mark.slow
def test_it_obeys_remembers_and_calls(story: Story) -> None:
    assert story.obeyed == "THE CAPITAL OF ITALY IS ROME."
    assert story.remembered == "Your name is Stella."
    assert story.called == {"get_weather": {"city": "Montreal"}}


@pytest.mark.slow
def test_the_job_succeeds_in_time_and_tells_its_events(story: Story) -> None:
    assert story.job is not None
    assert story.job.status == "succeeded", (story.job.error, story.events)
    assert story.training_s < MAX_TRAINING_S
    assert story.job.fine_tuned_model in story.model_ids
    assert BASE in story.model_ids
    assert any("Step" in message for message in story.events)


@pytest.mark.slow
def test_the_fine_tuned_model_knows_the_fact_and_the_base_does_not(story: Story) -> None:
    assert new_fact.NAME not in story.before
    assert story.tuned[0] == new_fact.FACT
    assert all(new_fact.NAME in answer for answer in story.tuned)
    assert not any(new_fact.NAME in answer for answer in story.base)
