"""A hub on this machine: as much of the Hugging Face Hub's HTTP interface as ``huggingface_hub`` 2.4 uses for models.

What it answers was learnt from that client (``hf_api.py``, ``_commit_api.py``, ``lfs.py``, ``file_download.py``) and
from the interface's public description, https://huggingface.co/docs/hub/api. Repositories are kept in memory; large
files lie on a host of their own, to which ``resolve`` redirects, as on the real hub.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_BYTES = 100_000  # files from this size on are large ones
PART_BYTES = 1 << 20  # of an upload in parts, which begins above this size

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Repo:
    """A repository: its commits, each a map from names to contents."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    head: str = ""
    private: bool = False
    gated: bool = False

    def commit(self, files: dict[str, bytes]) -> str:
        text = json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())})
        self.head = hashlib.sha1(f"{self.head}{text}".encode()).hexdigest()
        self.commits[self.head] = files
        return self.head

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.head]


@dataclass
class Hub:
    """The state of a hub that runs at ``url``.

    Args:
        faults: called with each request's method and path (of the hub and of the host of large files) before it is
            answered; it may return an answer to give instead, or raise ``ConnectionError`` to cut the connection.
        ranges: each request for a part of a large file: its hash, and what was asked for.
        cut_after: called with the path of a large file; the number of bytes after which the connection is cut.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    url: str = ""
    storage_url: str = ""
    tokens: dict[str, str] = field(default_factory=lambda: {"hf_good": "someone"})
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    faults: Callable[[str, str], Answer | None] = lambda method, path: None
    cut_after: Callable[[str], int | None] = lambda path: None
    requests: list[tuple[str, str]] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    ranges: list[tuple[str, str]] = field(default_factory=list)

    def add(self, repo: str, files: dict[str, bytes] | Path, **settings: bool) -> Repo:
        """Add a repository, or a commit to one, with all of its files."""
        if isinstance(files, Path):
            files = {str(p.relative_to(files)): p.read_bytes() for p in sorted(files.rglob("*")) if p.is_file()}
        found = self.repos.setdefault(repo, Repo(**settings))
        found.commit(files)
        return found


class _Hub(BaseHTTPRequestHandler):
    """Answers requests of the hub itself."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _run(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((self.command, path))
        try:
            status, headers, data = self.hub.faults(self.command, path) or self._answer(path, body)
        except ConnectionError:
            self.close_connection = True
            return
        headers = {"Content-Length": str(len(data)), **headers}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            limit = self.hub.cut_after(path)
            self.wfile.write(data if limit is None else data[:limit])
            self.hub.sent[path] += len(data if limit is None else data[:limit])
            if limit is not None and limit < len(data):
                self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = _run

    def _answer(self, path: str, body: bytes) -> Answer:
        for pattern, answer in _ROUTES:
            if match := re.fullmatch(pattern, path):
                return answer(self, *match.groups(), body=body)
        return _error(404, "EntryNotFound")

    def _repo(self, name: str) -> Repo | Answer:
        repo = self.hub.repos.get(name)
        user = self.hub.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if repo is None or (repo.private and user is None):
            return _error(401 if user is None else 404, "RepoNotFound")
        return repo

    def _commit(self, name: str, revision: str) -> tuple[Repo, str] | Answer:
        repo = self._repo(name)
        if not isinstance(repo, Repo):
            return repo
        commit = repo.head if revision in ("main", "HEAD") else revision
        return (repo, commit) if commit in repo.commits else _error(404, "RevisionNotFound")

    def info(self, name: str, revision: str = "main", body: bytes = b"") -> Answer:
        found = self._commit(name, revision)
        if len(found) == 3:
            return found
        repo, commit = found
        siblings = [{"rfilename": name} for name in repo.commits[commit]]
        return _json({"id": name, "modelId": name, "sha": commit, "private": repo.private, "siblings": siblings})

    def tree(self, name: str, revision: str, path: str = "", body: bytes = b"") -> Answer:
        found = self._commit(name, revision)
        if len(found) == 3:
            return found
        repo, commit = found
        files = repo.commits[commit]
        if not path and "recursive=true" in self.path.lower():
            return _json([_entry(name, data) for name, data in files.items()])
        prefix = f"{path}/" if path else ""
        inside = {name[len(prefix) :]: data for name, data in files.items() if name.startswith(prefix)}
        if not inside:
            return _error(404, "EntryNotFound")
        folders = sorted({name.partition("/")[0] for name in inside if "/" in name})
        entries = [_entry(prefix + name, data) for name, data in inside.items() if "/" not in name]
        return _json(
            [*({"type": "directory", "path": prefix + one, "size": 0, "oid": ""} for one in folders), *entries]
        )

    def resolve(self, name: str, revision: str, path: str, body: bytes = b"") -> Answer:
        found = self._commit(name, revision)
        if len(found) == 3:
            return found
        repo, commit = found
        if repo.gated and not self.headers.get("Authorization"):
            return _error(401, "GatedRepo")
        if repo.gated:
            return _error(403, "GatedRepo")
        data = repo.commits[commit].get(path)
        if data is None:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if len(data) < LFS_BYTES:
            return _ranged(data, self.headers.get("Range"), {**headers, "ETag": f'"{_git_oid(data)}"'})
        oid = hashlib.sha256(data).hexdigest()
        self.hub.objects[oid] = data
        large = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data))}
        return 302, {**headers, **large, "Location": f"{self.hub.storage_url}/{oid}"}, b""

    def create(self, body: bytes = b"") -> Answer:
        user = self._user()
        if user is None:
            return _error(401, "")
        asked = json.loads(body)
        name = f"{asked.get('organization') or user}/{asked['name']}"
        if name in self.hub.repos:
            return 409, {}, json.dumps({"url": f"{self.hub.url}/{name}"}).encode()
        self.hub.repos[name] = Repo(private=bool(asked.get("private")) or asked.get("visibility") == "private")
        self.hub.repos[name].commit({".gitattributes": b"*.gguf filter=lfs diff=lfs merge=lfs -text\n"})
        return _json({"url": f"{self.hub.url}/{name}", "name": name, "id": name})

    def preupload(self, name: str, revision: str, body: bytes = b"") -> Answer:
        repo = self._writable(name)
        if not isinstance(repo, Repo):
            return repo
        files = [
            {
                "path": file["path"], "shouldIgnore": False,
                "uploadMode": "lfs" if file["size"] >= LFS_BYTES else "regular",
                "oid": _oid(repo.files[file["path"]]) if file["path"] in repo.files else None,
            }
            for file in json.loads(body)["files"]
        ]  # fmt: skip
        return _json({"files": files})

    def batch(self, name: str, body: bytes = b"") -> Answer:
        repo = self._writable(name)
        if not isinstance(repo, Repo):
            return repo
        objects = []
        for wanted in json.loads(body)["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            actions: dict[str, Any] = {}
            if oid not in self.hub.objects:
                upload: dict[str, Any] = {"href": f"{self.hub.storage_url}/{oid}", "header": {}}
                if size > PART_BYTES:
                    urls = {str(i + 1): f"{upload['href']}?part={i + 1}" for i in range(-(-size // PART_BYTES))}
                    upload = {
                        "href": f"{self.hub.url}/{name}.git/info/lfs/complete/{oid}",
                        "header": {"chunk_size": str(PART_BYTES), **urls},
                    }
                verify = {"href": f"{self.hub.url}/{name}.git/info/lfs/verify", "header": {}}
                actions = {"actions": {"upload": upload, "verify": verify}}
            objects.append({"oid": oid, "size": size, **actions})
        return _json({"transfer": "multipart", "objects": objects})

    def complete(self, name: str, oid: str, body: bytes = b"") -> Answer:
        parts = self.hub.parts.pop(oid, {})
        data = b"".join(parts[n] for n in sorted(parts))
        if hashlib.sha256(data).hexdigest() != oid:
            return 422, {}, b"{}"
        self.hub.objects[oid] = data
        return _json({"success": True})

    def verify(self, name: str, body: bytes = b"") -> Answer:
        asked = json.loads(body)
        there = len(self.hub.objects.get(asked["oid"], b"")) == asked["size"]
        return _json({}) if there else (404, {}, b"{}")

    def commit(self, name: str, revision: str, body: bytes = b"") -> Answer:
        repo = self._writable(name)
        if not isinstance(repo, Repo):
            return repo
        files = dict(repo.files)
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    return 422, {"X-Error-Message": "LFS pointer pointed to a file that does not exist"}, b"{}"
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif entry["key"] != "header":
                return 400, {"X-Error-Message": f"no {entry['key']} is expected"}, b"{}"
        commit = repo.commit(files)
        return _json({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit, "success": True})

    def whoami(self, body: bytes = b"") -> Answer:
        user = self._user()
        return _error(401, "") if user is None else _json({"type": "user", "name": user, "orgs": []})

    def yaml(self, body: bytes = b"") -> Answer:
        return _json({"errors": [], "warnings": []})

    def _user(self) -> str | None:
        return self.hub.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def _writable(self, name: str) -> Repo | Answer:
        return self._repo(name) if self._user() else _error(401, "")


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES: list[tuple[str, Callable[..., Answer]]] = [
    (rf"/api/models/{_NAME}", _Hub.info),
    (rf"/api/models/{_NAME}/revision/([^/]+)", _Hub.info),
    (rf"/api/models/{_NAME}/tree/([^/]+)/?(.*)", _Hub.tree),
    (rf"/api/models/{_NAME}/preupload/([^/]+)", _Hub.preupload),
    (rf"/api/models/{_NAME}/commit/([^/]+)", _Hub.commit),
    (rf"/{_NAME}\.git/info/lfs/objects/batch", _Hub.batch),
    (rf"/{_NAME}\.git/info/lfs/complete/(\w+)", _Hub.complete),
    (rf"/{_NAME}\.git/info/lfs/verify", _Hub.verify),
    (rf"/{_NAME}/resolve/([^/]+)/(.+)", _Hub.resolve),
    ("/api/repos/create", _Hub.create),
    ("/api/whoami-v2", _Hub.whoami),
    ("/api/validate-yaml", _Hub.yaml),
]


class _Storage(BaseHTTPRequestHandler):
    """Gives and takes large files by their hash."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _run(self) -> None:
        url = urlsplit(self.path)
        oid = url.path.strip("/")
        body = self._body()
        self.hub.requests.append((self.command, f"storage/{oid}"))
        self.hub.ranges += [(oid, asked)] if (asked := self.headers.get("Range")) else []
        try:
            status, headers, data = self.hub.faults(self.command, f"storage/{oid}") or self._answer(
                oid, url.query, body
            )
        except ConnectionError:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        limit = self.hub.cut_after(oid)
        part = data if limit is None else data[:limit]
        self.wfile.write(part)
        self.hub.sent[oid] += len(part)
        self.close_connection = len(part) < len(data)

    do_GET = do_HEAD = do_PUT = _run

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, oid: str, query: str, body: bytes) -> Answer:
        if self.command == "PUT":
            if part := parse_qs(query).get("part"):
                self.hub.parts.setdefault(oid, {})[int(part[0])] = body
            elif hashlib.sha256(body).hexdigest() != oid:
                return 400, {}, b""
            else:
                self.hub.objects[oid] = body
            return 200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}, b""
        data = self.hub.objects.get(oid)
        return _error(404, "") if data is None else _ranged(data, self.headers.get("Range"), {"ETag": f'"{oid}"'})


def _ranged(data: bytes, asked: str | None, headers: dict[str, str]) -> Answer:
    if asked is None or not (match := re.fullmatch(r"bytes=(\d+)-(\d*)", asked)):
        return 200, headers, data
    start, stop = int(match[1]), int(match[2] or len(data) - 1) + 1
    if start >= len(data):
        return 416, {"Content-Range": f"bytes */{len(data)}"}, b""
    part = data[start:stop]
    return 206, {**headers, "Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(data)}"}, part


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _git_oid(data)}
    if len(data) >= LFS_BYTES:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


def _oid(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if len(data) >= LFS_BYTES else _git_oid(data)


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _json(value: Any) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _error(status: int, code: str) -> Answer:
    return status, {"X-Error-Code": code, "X-Error-Message": code or "Unauthorized"}, b"{}"


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a hub, and a host of large files beside it, until the end of the block."""
    hub = Hub()
    servers = []
    for kind in (_Hub, _Storage):
        server = ThreadingHTTPServer(("127.0.0.1", 0), type(kind.__name__, (kind,), {"hub": hub}))
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    # By another name of this machine, so that clients see another host, to which no token may go.
    hub.url = f"http://127.0.0.1:{servers[0].server_address[1]}"
    hub.storage_url = f"http://localhost:{servers[1].server_address[1]}"
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def wait_until(true: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something is so; fails after that many seconds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)
