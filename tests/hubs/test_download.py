"""Fetching from each hub, over real HTTP from a hub on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
from huggingface_hub import snapshot_download

from server.config import ModelEntry
from server.hubs.download import Fetch
from server.hubs.model import HubError, HubModel, HubUnreachableError, RemoteFile
from server.hubs.names import Hub
from server.hubs.places import hub_model
from tests.hubs.local_hub import COMMIT, LocalHub, running_hub

ROOT = Path(__file__).parents[2]
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Looks like a model; nobody loads it here."""
    folder = tmp_path / "remote"
    (folder / "extra").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    (folder / "extra" / "more file.json").write_text("{}")
    (folder / WEIGHTS).write_bytes(os.urandom(1 << 20))
    for unwanted in ("pytorch_model.bin", "model.onnx", ".gitattributes"):
        (folder / unwanted).write_bytes(b"x" * 9000)
    return folder


@pytest.fixture
def hub(folder: Path) -> Iterator[LocalHub]:
    with running_hub(folder) as running:
        yield running


def named(hub: LocalHub, cache: Path, kind: Hub = Hub.HUGGINGFACE, **settings: str) -> HubModel:
    entry = {"id": "m", "path": hub.name, "hub": kind, "cache_dir": cache, **settings}
    model = hub_model(ModelEntry.model_validate(entry), hub.environ | {"HF_HOME": str(cache)})
    assert model is not None
    return model


def fetch(model: HubModel) -> Path:
    return Fetch(model, lambda done, total: None, Event()).run()


def contents(directory: Path) -> dict[str, bytes]:
    found = (p for p in directory.rglob("*") if p.is_file())
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in found}


@pytest.mark.parametrize("kind", list(Hub))
def test_each_hubs_files_arrive_as_they_are(
    hub: LocalHub, folder: Path, tmp_path: Path, kind: Hub
) -> None:
    hub.behaviour.token = "secret"
    model = named(hub, tmp_path / "cache", kind, hub_token="secret")
    reports: list[tuple[int, int]] = []
    directory = Fetch(model, lambda *seen: reports.append(seen), Event()).run()
    wanted = ("config.json", WEIGHTS, "extra/more file.json")
    assert contents(directory) == {name: (folder / name).read_bytes() for name in wanted}
    total = sum((folder / name).stat().st_size for name in wanted)
    assert reports[0] == (0, total)
    assert reports[-1] == (total, total)
    assert not hub.behaviour.tokens, "the token went to another place than the hub"
    hub.behaviour.log.clear()
    assert fetch(model) == directory
    assert not hub.behaviour.log, "what is there was fetched again"


def test_the_cache_is_the_one_of_huggingface_hub(
    hub: LocalHub, folder: Path, tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    directory = fetch(named(hub, ours))
    found = snapshot_download(hub.name, cache_dir=ours, local_files_only=True, endpoint=hub.url)
    assert Path(found) == directory
    made = snapshot_download(hub.name, cache_dir=theirs, endpoint=hub.url)
    hub.behaviour.log.clear()
    assert fetch(named(hub, theirs)) == Path(made)
    assert not hub.behaviour.log


@pytest.mark.parametrize("kind", list(Hub))
def test_a_broken_connection_goes_on_where_it_broke(
    hub: LocalHub, folder: Path, tmp_path: Path, kind: Hub
) -> None:
    hub.behaviour.cut_after_bytes = 300_000
    directory = fetch(named(hub, tmp_path, kind))
    assert (directory / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    ranges = [wanted for name, wanted in hub.behaviour.log if name == WEIGHTS]
    assert ranges == [None, "bytes=300000-"]


_FETCH = """
import sys
from pathlib import Path
from threading import Event
from server.hubs.download import Fetch
from server.hubs.model import HubModel
from server.hubs.names import Hub
model = HubModel(Hub(sys.argv[1]), "owner/model", sys.argv[2], sys.argv[3], Path(sys.argv[4]))
Fetch(model, lambda done, total: None, Event()).run()
"""


def test_a_killed_download_goes_on_where_it_was(
    hub: LocalHub, folder: Path, tmp_path: Path
) -> None:
    hub.behaviour.bytes_per_s = 300_000
    model = named(hub, tmp_path / "cache")
    place = [model.hub.value, model.revision, model.endpoint, str(model.cache_dir)]
    process = subprocess.Popen([sys.executable, "-c", _FETCH, *place], cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (begun := sum(p.stat().st_size for p in _parts(model))) > 100_000:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.behaviour.bytes_per_s = None
    hub.behaviour.log.clear()
    directory = fetch(model)
    assert (directory / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    (wanted,) = [wanted for name, wanted in hub.behaviour.log if name == WEIGHTS]
    assert wanted is not None
    assert int(wanted.removeprefix("bytes=").removesuffix("-")) >= begun


def _parts(model: HubModel) -> list[Path]:
    return list(model.cache_dir.glob("models--*/blobs/*.incomplete"))


def test_two_that_start_at_once_share_one_download(hub: LocalHub, tmp_path: Path) -> None:
    hub.behaviour.bytes_per_s = 3_000_000
    model = named(hub, tmp_path)
    with ThreadPoolExecutor(3) as threads:
        directories = set(threads.map(fetch, [model] * 3))
    assert len(directories) == 1
    assert [name for name, _ in hub.behaviour.log].count(WEIGHTS) == 1


def test_bytes_that_do_not_match_the_checksum_are_not_kept(hub: LocalHub, tmp_path: Path) -> None:
    hub.behaviour.spoil = True
    model = named(hub, tmp_path)
    with pytest.raises(HubError, match="checksum"):
        fetch(model)
    assert not list(tmp_path.glob("models--*/snapshots/*/*.safetensors"))
    hub.behaviour.spoil = False
    assert (fetch(model) / WEIGHTS).is_file()


@pytest.mark.parametrize("kind", list(Hub))
def test_without_the_hub_the_cache_serves(hub: LocalHub, tmp_path: Path, kind: Hub) -> None:
    model = named(hub, tmp_path / "cache", kind)
    with pytest.raises(HubUnreachableError, match=r"is not in .*cache.*offline"):
        fetch(replace(model, offline=True))
    directory = fetch(model)
    hub.behaviour.log.clear()
    assert fetch(replace(model, offline=True)) == directory
    hub.behaviour.broken = True
    assert fetch(model) == directory
    assert not hub.behaviour.log
    (directory / WEIGHTS).unlink()
    with pytest.raises(HubUnreachableError, match="status 500"):
        fetch(model)


def test_an_index_names_the_shards_that_make_a_snapshot_whole(
    hub: LocalHub, folder: Path, tmp_path: Path
) -> None:
    index = {"weight_map": {"a": WEIGHTS, "b": "second.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    model = named(hub, tmp_path)
    fetch(model)
    with pytest.raises(HubUnreachableError):
        fetch(replace(model, offline=True))


@pytest.mark.parametrize(
    ("kind", "settings", "needed", "message"),
    [
        (Hub.HUGGINGFACE, {"path": "owner/other"}, None, "no model 'owner/other'"),
        (Hub.MODELSCOPE, {"path": "owner/other"}, None, "no model 'owner/other'"),
        (Hub.MODELERS, {"path": "owner/other"}, None, "no model 'owner/other'"),
        (Hub.HUGGINGFACE, {"revision": "v9"}, None, "no revision 'v9'"),
        (Hub.MODELSCOPE, {"revision": "v9"}, None, "revision 'v9'"),
        (Hub.HUGGINGFACE, {}, "secret", "a private one needs hub_token"),
        (Hub.HUGGINGFACE, {"hub_token": "old"}, "secret", "refuses the token"),
        (Hub.MODELERS, {"hub_token": "old"}, "secret", "refuses the token"),
    ],
)
def test_what_a_hub_refuses_says_what_to_do(
    hub: LocalHub,
    tmp_path: Path,
    kind: Hub,
    settings: dict[str, str],
    needed: str | None,
    message: str,
) -> None:
    hub.behaviour.token = needed
    with pytest.raises(HubError, match=message) as refused:
        fetch(named(hub, tmp_path, kind, **settings))
    assert "old" not in str(refused.value)


def test_a_gated_model_names_the_page_with_its_terms(hub: LocalHub, tmp_path: Path) -> None:
    hub.behaviour.gated = True
    with pytest.raises(HubError, match=f"gated.*no token.*{hub.url}/owner/model.*hub_token"):
        fetch(named(hub, tmp_path))
    with pytest.raises(HubError, match="has not been given access"):
        fetch(named(hub, tmp_path, hub_token="mine"))


def test_a_commit_is_a_revision_too(hub: LocalHub, tmp_path: Path) -> None:
    assert fetch(named(hub, tmp_path, revision=COMMIT)).name == COMMIT


def test_a_place_outside_the_models_folder_is_refused() -> None:
    for path in ("../x", "/etc/passwd", "a/../../b", "..\\x", ""):
        with pytest.raises(HubError, match="no model has"):
            RemoteFile(path, 1, None, "http://x")
    with pytest.raises(HubError, match="checksum"):
        RemoteFile("x", 1, "../../../../x" + "0" * 27, "http://x")


def test_only_the_tokenizer_is_fetched_for_an_attached_engine(
    hub: LocalHub, tmp_path: Path
) -> None:
    entry = ModelEntry(
        id="m", path=hub.name, hub=Hub.HUGGINGFACE, engine="attached", url="http://x"
    )  # pyright: ignore[reportArgumentType]
    model = hub_model(entry, hub.environ | {"HF_HOME": str(tmp_path)})
    assert model is not None
    assert set(contents(fetch(model))) == {"config.json", "extra/more file.json"}
