"""A server on this machine that speaks as much of the Hub's API as fetching a model needs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".gguf", "tokenizer.json")
"""What the Hub keeps apart from git: listed with a SHA-256, and served from another host."""


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class FakeHub:
    """Repositories by name, each one commit. What to do wrong is set from outside; every request is noted."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    license: str | None = "apache-2.0"
    refuse: tuple[int, dict[str, str]] | None = None
    """Status and headers of every answer, instead of what was asked for."""
    break_after: list[int] = field(default_factory=list)
    """For each download of a large file, in turn: after how many bytes the connection ends. -1: HTTP 503 instead."""
    stall_after: int | None = None
    """After how many bytes of a large file nothing more comes, without an end."""
    ignores_range: bool = False
    served: dict[str, bytes] = field(default_factory=dict)
    """By path: what is sent in place of the file that is listed."""
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    """(path, Range, Authorization) of each request."""
    url: str = ""
    released: threading.Event = field(default_factory=threading.Event)

    def commit(self, repository: str) -> str:
        files = self.repositories[repository]
        return hashlib.sha1(
            repr(sorted((name, git_sha1(content)) for name, content in files.items())).encode()
        ).hexdigest()

    def ranges(self) -> list[str | None]:
        return [wanted for path, wanted, _ in self.requests if path.startswith("/cdn/")]


@contextlib.contextmanager
def serving(hub: FakeHub) -> Generator[FakeHub]:
    """Serve `hub` on a port of its own; its address is `hub.url`."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        # A client that has enough hangs up.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((path, self.headers["Range"], self.headers["Authorization"]))
        if self.hub.refuse is not None:
            status, headers = self.hub.refuse
            return self._answer(status, b"", headers)
        parts = path.strip("/").split("/")
        if parts[0] == "cdn":
            return self._large("/".join(parts[1:3]), "/".join(parts[3:]))
        if parts[:2] == ["api", "models"]:
            return self._describe("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
        if len(parts) > 4 and parts[2] == "resolve":
            return self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        return self._answer(404, b"", {})

    def _describe(self, repository: str, revision: str) -> None:
        if repository not in self.hub.repositories:
            return self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", self.hub.commit(repository)):
            return self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        siblings: list[dict[str, Any]] = []
        for name, content in self.hub.repositories[repository].items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_sha1(content)}
            if name.endswith(LARGE):
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        about: dict[str, Any] = {
            "id": repository,
            "sha": self.hub.commit(repository),
            "siblings": siblings,
            "private": False,
        }
        if self.hub.license:
            about["cardData"] = {"license": self.hub.license}
        return self._answer(200, json.dumps(about).encode(), {"Content-Type": "application/json"})

    def _resolve(self, repository: str, revision: str, name: str) -> None:
        files = self.hub.repositories.get(repository, {})
        if name not in files or revision != self.hub.commit(repository):
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        about = {"X-Repo-Commit": revision, "ETag": f'"{git_sha1(files[name])}"'}
        if not name.endswith(LARGE):
            return self._answer(200, self.hub.served.get(name, files[name]), about)
        # Another host, as the Hub's storage is: it may not see the token.
        port = urlsplit(self.hub.url).port
        location = f"http://localhost:{port}/cdn/{repository}/{name}"
        return self._answer(302, b"", {**about, "Location": location, "X-Linked-Size": str(len(files[name]))})

    def _large(self, repository: str, name: str) -> None:
        content = self.hub.served.get(name, self.hub.repositories[repository][name])
        limit = self.hub.break_after.pop(0) if self.hub.break_after else len(content)
        if limit < 0:
            return self._answer(503, b"", {})
        start = 0
        if (wanted := self.headers["Range"]) and not self.hub.ignores_range:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            whole = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        else:
            whole = {}
        rest = content[start:]
        self.send_response(206 if whole else 200)
        for key, value in {**whole, "Content-Length": str(len(rest))}.items():
            self.send_header(key, value)
        self.end_headers()
        stall = self.hub.stall_after
        with contextlib.suppress(OSError):
            self.wfile.write(rest[: limit if stall is None else stall])
            self.wfile.flush()
            if stall is not None:
                self.hub.released.wait()
        if limit < len(rest):
            self.close_connection = True
        return None

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class calls it that)
        """Nobody reads it."""
