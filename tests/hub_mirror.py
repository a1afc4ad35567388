"""A folder served as a mirror of the hub over loopback HTTP, with faults on demand, for the hub's real client.

Large files answer as on the hub: the metadata redirects to another place, which sends ranges. A fault is set by the
file's name (or the repository's) and stays until it is taken away; `requests` has what the client asked for.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIECE = CHUNK = 1 << 16  # bytes; the latter is what the client passes on at a time here


@dataclass
class Faults:
    """What goes wrong; keys are names of files, or of repositories for `refused`."""

    cut_after: dict[str, int] = field(default_factory=dict)  # bytes of each answer until the connection breaks
    pause: dict[str, float] = field(default_factory=dict)  # seconds before each piece
    status: dict[str, int] = field(default_factory=dict)  # instead of an answer
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)  # status and X-Error-Code
    claimed_size: dict[str, int] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)  # right size, wrong bytes
    no_ranges: bool = False
    no_hub: bool = False  # answers without the hub's headers


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    first_byte: int  # 0 where no range was asked for
    login: str | None  # the token that was shown


class Mirror(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.faults = Faults()
        self.requests: list[Request] = []
        self.sent: dict[str, int] = {}  # bytes by file name
        self.known: dict[str, Path] = {}  # by hash
        self.stopping = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def elsewhere(self) -> str:
        """The same server under another name, as large files lie at another host than the hub."""
        return f"http://localhost:{self.server_port}"

    def asked(self, name: str, method: str = "GET") -> list[Request]:
        return [request for request in self.requests if request.method == method and request.path.endswith(name)]


@contextmanager
def serving(folder: Path) -> Iterator[Mirror]:
    """Serve `folder`/owner/name/... at a free port for the length of the block."""
    mirror = Mirror(folder)
    thread = threading.Thread(target=mirror.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield mirror
    finally:
        mirror.stopping.set()
        mirror.shutdown()
        mirror.server_close()
        thread.join()


def use(monkeypatch: pytest.MonkeyPatch, address: str, cache: Path) -> None:
    """Point the client to a mirror, as HF_ENDPOINT and HF_HOME do when it is imported, and make it impatient."""
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    chosen = {
        "ENDPOINT": address, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_CACHE": str(cache),
        "DOWNLOAD_CHUNK_SIZE": CHUNK, "HF_HUB_DOWNLOAD_TIMEOUT": 1, "HF_HUB_ETAG_TIMEOUT": 1, "HF_HUB_OFFLINE": False,
    }  # fmt: skip
    for name, value in chosen.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)  # before version 1


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Mirror

    def log_message(self, format: str, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        first = self.headers.get("Range", "bytes=0-").partition("=")[2].partition("-")[0]
        self.server.requests.append(Request(self.command, path, int(first), self.headers.get("Authorization")))
        if path.startswith("stored/"):
            self._send(self.server.known[path.split("/")[1]], {}, int(first) if "Range" in self.headers else None)
        elif "/resolve/" in path:
            self._resolve(*path.split("/resolve/"))
        elif path.startswith("api/models/") and (self.server.folder / "/".join(path.split("/")[2:4])).is_dir():
            self._describe("/".join(path.split("/")[2:4]), listing="/tree/" in path)
        else:
            self._refuse(404, "RepoNotFound")

    def _resolve(self, repository: str, rest: str) -> None:
        revision, _, name = rest.partition("/")
        path = self.server.folder / repository / name
        faults = self.server.faults
        if repository in faults.refused:
            return self._refuse(*faults.refused[repository])
        if path.name in faults.status:
            return self._refuse(faults.status[path.name], "")
        if not (self.server.folder / repository).is_dir():
            return self._refuse(401, "RepoNotFound")
        if revision not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        if not path.is_file():
            return self._refuse(404, "EntryNotFound", {"X-Repo-Commit": COMMIT})
        headers = {} if faults.no_hub else {"X-Repo-Commit": COMMIT, "ETag": f'"{git_hash(path)}"'}
        if path.suffix == ".safetensors" and not faults.no_hub:
            return self._redirect(path, headers)
        return self._send(path, headers, None)

    def _describe(self, repository: str, *, listing: bool) -> None:
        """The hub's facts about a repository, or the list of its files."""
        if repository in self.server.faults.refused:
            return self._refuse(*self.server.faults.refused[repository])
        folder = self.server.folder / repository
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        facts = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
        sizes = [
            {"type": "file", "path": name, "size": (folder / name).stat().st_size, "oid": COMMIT} for name in names
        ]
        body = json.dumps(sizes if listing else facts).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _redirect(self, path: Path, headers: dict[str, str]) -> None:
        sha = hashlib.sha256(path.read_bytes()).hexdigest()
        self.server.known[sha] = path
        size = self.server.faults.claimed_size.get(path.name, path.stat().st_size)
        self.send_response(HTTPStatus.FOUND)
        linked = {"X-Linked-ETag": f'"{sha}"', "X-Linked-Size": str(size), "X-Xet-Hash": sha}
        place = {"Location": f"{self.server.elsewhere}/stored/{sha}/{path.name}", "Content-Length": "0"}
        for key, value in {**headers, **linked, **place}.items():
            self.send_header(key, value)
        self.send_header("Link", f'<{self.server.address}/xet-token>; rel="xet-auth"')
        self.end_headers()

    def _send(self, path: Path, headers: dict[str, str], first: int | None) -> None:
        faults, body = self.server.faults, path.read_bytes()
        if path.name in faults.status:
            return self._refuse(faults.status[path.name], "")
        if path.name in faults.damaged:
            body = bytes(len(body))
        part = first is not None and not faults.no_ranges
        self.send_response(HTTPStatus.PARTIAL_CONTENT if part else HTTPStatus.OK)
        if part:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
            body = body[first:]
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self._write(path.name, body)

    def _write(self, name: str, body: bytes) -> None:
        limit = self.server.faults.cut_after.get(name, len(body))
        for begin in range(0, min(limit, len(body)), PIECE):
            if self.server.stopping.wait(self.server.faults.pause.get(name, 0.0)):
                break
            piece = body[begin : min(begin + PIECE, limit)]
            try:
                self.wfile.write(piece)
            except OSError:  # the client has gone
                break
            self.server.sent[name] = self.server.sent.get(name, 0) + len(piece)
        if limit < len(body):
            self.close_connection = True

    def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {
            **(headers or {}),
            "X-Error-Code": code,
            "X-Error-Message": "no",
            "Content-Length": "0",
        }.items():
            self.send_header(key, value)
        self.end_headers()


def git_hash(path: Path) -> str:
    """The tag of a small file on the hub: its hash in git."""
    body = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
