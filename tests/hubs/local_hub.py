"""A hub on this machine, with the routes of Hugging Face, ModelScope and Modelers over a folder.

Of Hugging Face's: `X-Repo-Commit`, `ETag`, `X-Linked-Size`, `X-Linked-Etag`, ranges, and a redirect
to another place for large files, as its libraries expect them (huggingface_hub `file_download.py`).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE_BYTES = 4096
"""Files from here on are LFS files: told by SHA-256, and served from elsewhere."""
COMMIT = "c0ffee" * 6 + "beef"


@dataclass
class Behaviour:
    """Changed by tests between requests."""

    token: str | None = None
    """Needed for everything, if set."""
    gated: bool = False
    broken: bool = False
    """Every request is a 500."""
    cut_after_bytes: int | None = None
    """The next large file breaks off there, once."""
    spoil: bool = False
    """Large files come with a wrong byte."""
    bytes_per_s: float | None = None
    log: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]])
    """Paths of files asked for, with the Range and in order."""
    tokens: set[str] = field(default_factory=set[str])
    """That came with requests for files from elsewhere."""


@dataclass(frozen=True)
class LocalHub:
    url: str
    behaviour: Behaviour
    name: str

    @property
    def environ(self) -> dict[str, str]:
        return {
            "HF_ENDPOINT": self.url,
            "MODELSCOPE_DOMAIN": self.url,
            "OPENMIND_HUB_ENDPOINT": self.url,
        }


def digest_of(content: bytes) -> str:
    if len(content) >= LARGE_BYTES:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    name: str
    behaviour: Behaviour

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), {k: v[0] for k, v in parse_qs(parts.query).items()}
        behaviour = self.behaviour
        if behaviour.broken:
            return self._send(500, b"")
        if path.startswith("/elsewhere/"):
            if "Authorization" in self.headers:
                behaviour.tokens.add(self.headers["Authorization"])
            return self._file(path.removeprefix("/elsewhere/"))
        if behaviour.token and self.headers.get("Authorization") != f"Bearer {behaviour.token}":
            return self._refuse(401, "" if "Authorization" in self.headers else "RepoNotFound")
        if self.name not in path:
            return self._refuse(404, "RepoNotFound")
        if path.startswith("/api/models/"):
            return self._describe(path)
        if path.startswith("/api/v1/models/"):
            return self._modelscope(path, query)
        if path.startswith("/api/v1/file/"):
            return self._modelers(path, query)
        return self._resolve(path.removeprefix(f"/{self.name}/resolve/"))

    def _files(self) -> list[tuple[str, bytes]]:
        found = (p for p in sorted(self.folder.rglob("*")) if p.is_file())
        return [(p.relative_to(self.folder).as_posix(), p.read_bytes()) for p in found]

    def _describe(self, path: str) -> None:
        revision = path.rpartition("/revision/")[2] if "/revision/" in path else "main"
        if revision not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        if "/tree/" in path:
            return self._tree()
        siblings: list[dict[str, Any]] = []
        for name, content in self._files():
            entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
            if len(content) >= LARGE_BYTES:
                lfs = {"sha256": digest_of(content), "size": len(content), "pointerSize": 134}
                entry["lfs"] = lfs
            else:
                entry["blobId"] = digest_of(content)
            siblings.append(entry)
        self._json({"id": self.name, "sha": COMMIT, "siblings": siblings})

    def _tree(self) -> None:
        tree: list[dict[str, Any]] = []
        for name, content in self._files():
            digest = digest_of(content)
            entry = {"type": "file", "path": name, "size": len(content), "oid": digest[:40]}
            if len(content) >= LARGE_BYTES:
                lfs = {"oid": digest, "size": len(content), "pointerSize": 134}
                entry["lfs"] = lfs
            tree.append(entry)
        self._json(tree)

    def _resolve(self, rest: str) -> None:
        if self.behaviour.gated:
            return self._refuse(403, "GatedRepo")
        name = rest.partition("/")[2]
        content = (self.folder / name).read_bytes()
        etag = f'"{digest_of(content)}"'
        if len(content) < LARGE_BYTES:
            return self._file(name, {"X-Repo-Commit": COMMIT, "ETag": etag})
        headers = {
            "X-Repo-Commit": COMMIT,
            "X-Linked-Size": str(len(content)),
            "X-Linked-Etag": etag,
            # By another name of this host, so that it is another place to the client.
            "Location": f"http://localhost:{self.server.server_address[1]}/elsewhere/{name}",
        }
        self._send(302, b"", headers)

    def _modelscope(self, path: str, query: dict[str, str]) -> None:
        if query["Revision"] != "master":
            return self._json({"Code": 10010205001, "Message": "no such revision"}, 404)
        if path.endswith("/repo"):
            if "m_session_id" not in self.headers.get("Cookie", "") and self.behaviour.token:
                return self._refuse(401, "")
            return self._file(query["FilePath"])
        files = [
            {
                "Type": "blob",
                "Path": name,
                "Name": name,
                "Size": len(content),
                "Sha256": hashlib.sha256(content).hexdigest(),
            }
            for name, content in self._files()
        ]
        self._json({"Code": 200, "Data": {"Files": files}, "Success": True})

    def _modelers(self, path: str, query: dict[str, str]) -> None:
        rest = path.removeprefix(f"/api/v1/file/{self.name}")
        if "/media/" in rest:
            return self._file(rest.partition("/media/")[2])
        if query["ref"] != "main":
            return self._json({"code": "ref_not_exist"}, 404)
        tree: list[dict[str, Any]] = []
        for entry in sorted((self.folder / query.get("path", "")).iterdir()):
            where = entry.relative_to(self.folder).as_posix()
            if entry.is_dir():
                tree.append({"type": "dir", "path": where})
                continue
            content = entry.read_bytes()
            is_lfs = len(content) >= LARGE_BYTES
            told = {"size": len(content), "etag": digest_of(content), "is_lfs": is_lfs}
            tree.append({"type": "file", "path": where, **told})
        self._json({"data": {"tree": tree}})

    def _file(self, name: str, headers: dict[str, str] | None = None) -> None:
        content = (self.folder / name).read_bytes()
        wanted = self.headers.get("Range")
        if self.command == "GET":
            self.behaviour.log.append((name, wanted))
        if self.behaviour.spoil and len(content) >= LARGE_BYTES:
            content = bytes([content[0] ^ 1]) + content[1:]
        if wanted is None:
            return self._send(200, content, headers)
        start = int(wanted.removeprefix("bytes=").partition("-")[0])
        span = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self._send(206, content[start:], {**(headers or {}), **span})

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code} if code else {})

    def _json(self, answer: object, status: int = 200) -> None:
        self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.behaviour.cut_after_bytes
        if cut is not None and len(body) >= LARGE_BYTES:
            self.behaviour.cut_after_bytes = None
            self.wfile.write(body[:cut])
            self.close_connection = True
            return
        rate = self.behaviour.bytes_per_s
        if rate is None or len(body) < LARGE_BYTES:
            self.wfile.write(body)
            return
        for start in range(0, len(body), 1 << 16):
            self.wfile.write(body[start : start + (1 << 16)])
            time.sleep((1 << 16) / rate)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # the client left in the middle, as some tests have it do
            self.close_connection = True


@contextmanager
def running_hub(folder: Path, name: str = "owner/model") -> Generator[LocalHub]:
    behaviour = Behaviour()
    handler = type("Handler", (_Handler,), dict(folder=folder, name=name, behaviour=behaviour))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield LocalHub(f"http://127.0.0.1:{server.server_address[1]}", behaviour, name)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
