"""A data directory whose path is longer than a socket's address may be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from server.supervisor.engine_sockets import make_folder, socket_path
from tests.faults.serving import serving
from tests.jobs.live import wait_until


def test_engines_start_and_are_taken_over_below_a_long_path(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    with serving(folder) as processes:
        wait_until(processes.answers)
        engine, supervisor = processes.engine, processes.supervisor
        supervisor.kill()
        processes.successor(supervisor)
        processes.wait_taken_over(engine)
        assert processes.answers()


def test_a_short_path_is_kept_and_two_long_ones_never_meet(tmp_path: Path) -> None:
    assert socket_path(Path("/srv/run"), "engine-x") == Path("/srv/run/engine-x.sock")
    long = [socket_path(tmp_path / (letter * 120), "engine-x") for letter in "ab"]
    assert len({path.parent for path in long}) == 2
    assert all(len(os.fsencode(path)) < 104 for path in long)


@pytest.mark.parametrize("kind", ["open", "link"])
def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "sockets"
    if kind == "open":
        folder.mkdir()
        folder.chmod(0o777)
    else:
        (tmp_path / "own").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "own")
    with pytest.raises(PermissionError, match="not this user's own"):
        make_folder(folder / "engine-x.sock")


def test_a_new_directory_is_closed_to_others(tmp_path: Path) -> None:
    socket = tmp_path / "sockets" / "engine-x.sock"
    for _ in range(2):
        make_folder(socket)
    assert socket.parent.stat().st_mode & 0o777 == 0o700
