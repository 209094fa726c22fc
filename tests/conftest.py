"""What all tests share. The settings that `tuneyard serve` takes from the environment are for the
tests to choose."""

import os
from pathlib import Path

import pytest

for _name in ("HOST", "PORT", "DATA", "API_KEY"):
    os.environ.pop(_name, None)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of a real architecture, small enough to train in seconds."""
    from tests.trainer.conftest import build_model, build_tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = build_tokenizer()
    build_model(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
