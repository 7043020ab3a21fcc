"""A small Hub on this machine: the HTTP endpoints that huggingface_hub's client uses, so that tests run the real client.

Start it, and give processes its address as `HF_ENDPOINT`. Repositories live in memory and commits are whole trees. Weights and tables
are stored as large files: LFS batch, upload and verify; downloads are redirected to another host. There is no xet storage: set
`HF_HUB_DISABLE_XET=1`, because the client uploads to xet if its library is installed, without asking the server.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

LARGE = (".safetensors", ".parquet")  # endings of files that are stored as large ones
TOKENS = {"hf_owner": "user", "hf_stranger": "stranger"}  # access tokens and their owners


@dataclass(frozen=True)
class File:
    """One version of a file; `sha256` is set if it is stored as a large one."""

    content: bytes
    sha256: str | None = None

    @property
    def etag(self) -> str:
        """What identifies the content: the name of git's blob, or the hash of a large file."""
        return self.sha256 or hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    def describe(self, path: str) -> dict[str, Any]:
        """The entry in a listing of a tree."""
        large = {"lfs": {"oid": self.sha256, "size": len(self.content), "pointerSize": 134}} if self.sha256 else {}
        return {"type": "file", "path": path, "size": len(self.content), "oid": self.etag[:40], **large}


@dataclass
class Repository:
    """Branches point to commits, commits hold whole trees."""

    private: bool
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, tree: dict[str, File]) -> str:
        """Make `tree` the newest commit of a branch, and return its id."""
        text = repr((len(self.commits), branch, [(path, file.etag) for path, file in sorted(tree.items())]))
        commit_id = hashlib.sha1(text.encode()).hexdigest()
        self.commits[commit_id], self.branches[branch] = tree, commit_id
        return commit_id


class Refusal(Exception):
    """An HTTP error with the error code that the client reads."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message}


class Hub(ThreadingHTTPServer):
    """The server.

    Attributes:
        repositories: by (`"models"` or `"datasets"`, id).
        large_files: contents by SHA-256, whether or not a commit names them.
        requests: method and path of each request so far.
        storage_saw_token: whether a token came with a download of a large file.
        bytes_left: if set, the connection breaks after this many bytes of files, and every later transfer breaks at once.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.storage_saw_token = False
        self.bytes_left: int | None = None

    @property
    def url(self) -> str:
        """The address, for `HF_ENDPOINT`."""
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, kind: str, name: str, revision: str = "main") -> dict[str, File]:
        """The files of a repository, for tests to look at."""
        repository = self.repositories[kind, name]
        return repository.commits[repository.branches[revision]]


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A server in a separate thread."""
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


class Handler(BaseHTTPRequestHandler):
    """One connection; each endpoint is a method in the table `ROUTES` below."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        """Find the endpoint and answer; for every method."""
        self.server.requests.append(f"{self.command} {self.path}")
        path, _, self.query = self.path.partition("?")
        try:
            self.body = self._receive()
            for methods, pattern, answer in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in methods.split():
                    return answer(self, **{name: unquote(value) for name, value in match.groupdict("").items()})
            raise Refusal(404, "NotFound", f"no such endpoint: {self.command} {self.path}")
        except Refusal as refusal:
            return self._reply({"error": str(refusal)}, refusal.status, **refusal.headers)
        except ConnectionError:
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_GET

    def _reply(self, content: Any, status: int = 200, **headers: Any) -> None:
        """Answer with bytes, or anything else as JSON."""
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _allowance(self, size: int) -> int:
        """Number of bytes of a file of `size` that are transmitted."""
        left = self.server.bytes_left
        if left is not None:
            self.server.bytes_left = max(0, left - size)
        return size if left is None else min(size, left)

    def _receive(self) -> bytes:
        """The request's body; an upload may be interrupted."""
        size = int(self.headers.get("Content-Length", 0))
        through = self._allowance(size) if self.command == "PUT" else size
        content = self.rfile.read(through)
        if through < size:
            raise ConnectionAbortedError
        return content

    def _send_file(self, content: bytes, **headers: Any) -> None:
        """A download; it may break off. The client keeps whole pieces of 10 MB, so it asks for no rest of our small files."""
        through = len(content) if self.command == "HEAD" else self._allowance(len(content))
        self._reply(content[:through], **{"Content-Length": len(content), **headers})
        if through < len(content):
            raise ConnectionAbortedError

    def _user(self) -> str | None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme and token not in TOKENS:
            raise Refusal(401, "InvalidToken", "Invalid credentials in Authorization header")
        return TOKENS.get(token)

    def _check_owner(self, name: str) -> None:
        if self._user() != name.split("/")[0]:
            raise Refusal(403 if self._user() else 401, "Forbidden", f"{self._user()} may not write to {name}")

    def _open(self, kind: str, name: str, revision: str = "main") -> tuple[Repository, str, dict[str, File]]:
        """A repository, and the id and files of the commit of a branch or id; private repositories do not exist for other users."""
        repository = self.server.repositories.get((kind or "models", name))
        if repository is None or (repository.private and self._user() != name.split("/")[0]):
            raise Refusal(404 if self._user() else 401, "RepoNotFound", f"repository {name} not found")
        commit_id = repository.branches.get(revision, revision)
        if commit_id not in repository.commits:
            raise Refusal(404, "RevisionNotFound", f"no revision {revision}; there are {list(repository.branches)}")
        return repository, commit_id, repository.commits[commit_id]

    def _who_am_i(self) -> None:
        self._check_owner(str(self._user()))  # refuses who has no token
        self._reply({"type": "user", "name": self._user(), "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def _create_repository(self) -> None:
        request = json.loads(self.body)
        kind, name = f"{request.get('type', 'model')}s", f"{request['organization'] or self._user()}/{request['name']}"
        self._check_owner(name)
        new = (kind, name) not in self.server.repositories
        if new:
            repository = self.server.repositories[kind, name] = Repository(request.get("visibility") == "private")
            repository.commit("main", {})
        self._reply({"url": f"{self.server.url}/{'' if kind == 'models' else f'{kind}/'}{name}"}, 200 if new else 409)

    def _create_branch(self, kind: str, name: str, revision: str) -> None:
        self._check_owner(name)
        branches = self._open(kind, name)[0].branches
        if revision in branches:
            raise Refusal(409, "Conflict", f"branch {revision} exists")
        branches[revision] = branches["main"]
        self._reply({})

    def _check_write(self, kind: str, name: str) -> None:
        self._check_owner(name)
        self._reply({})

    def _choose_upload(self, kind: str, name: str, revision: str) -> None:
        self._check_owner(name)
        tree = self._open(kind, name, revision)[-1]
        paths = [file["path"] for file in json.loads(self.body)["files"]]
        modes = {path: "lfs" if path.endswith(LARGE) else "regular" for path in paths}
        known = {path: tree[path].etag if path in tree else None for path in paths}
        self._reply({"files": [{"path": p, "uploadMode": modes[p], "oid": known[p], "shouldIgnore": False} for p in paths]})

    def _start_large_uploads(self, kind: str, name: str) -> None:
        self._check_owner(name)
        objects = json.loads(self.body)["objects"]
        for item in objects:
            if item["oid"] not in self.server.large_files:
                place = {"href": f"{self.server.url}/large/{item['oid']}"}
                item["actions"] = {"upload": place, "verify": place}
        self._reply({"transfer": "basic", "objects": objects})

    def _receive_large_file(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "BadContent", f"{len(self.body)} bytes came that are not {oid}")
        self.server.large_files[oid] = self.body
        self._reply({})

    def _verify_large_file(self, oid: str) -> None:
        if len(self.server.large_files.get(oid, b"")) != json.loads(self.body)["size"]:
            raise Refusal(400, "BadContent", f"{oid} is not here in full")
        self._reply({})

    def _send_large_file(self, oid: str) -> None:
        self.server.storage_saw_token |= "Authorization" in self.headers
        self._send_file(self.server.large_files[oid])

    def _commit(self, kind: str, name: str, revision: str) -> None:
        self._check_owner(name)
        repository, newest, tree = self._open(kind, name, revision)
        tree = dict(tree)
        for operation in map(json.loads, self.body.splitlines()):
            value = operation["value"]
            if operation["key"] == "file":
                tree[value["path"]] = File(base64.b64decode(value["content"]))
            elif operation["key"] == "lfsFile":
                tree[value["path"]] = File(self.server.large_files[value["oid"]], value["oid"])
            elif operation["key"] == "deletedFile":
                del tree[value["path"]]
            elif operation["key"] == "header" and value.get("parentCommit", newest) != newest:
                raise Refusal(412, "PreconditionFailed", f"{name} has changed since commit {value['parentCommit']}")
            elif operation["key"] != "header":
                raise Refusal(400, "NotOffered", f"this server knows no commit operation {operation['key']}")
        commit_id = repository.commit(revision, tree)
        self._reply({"commitUrl": f"{self.server.url}/{name}/commit/{commit_id}", "commitOid": commit_id})

    def _describe(self, kind: str, name: str, revision: str) -> None:
        repository, commit_id, tree = self._open(kind, name, revision or "main")
        self._reply({"id": name, "sha": commit_id, "private": repository.private, "siblings": [{"rfilename": path} for path in tree]})

    def _list_tree(self, kind: str, name: str, revision: str, path: str) -> None:
        """The files below a folder, or the files and folders right in it."""
        tree = self._open(kind, name, revision)[-1]
        start = f"{path}/" if path else ""
        inside = [known for known in sorted(tree) if known.startswith(start)]
        if path and not inside:
            raise Refusal(404, "EntryNotFound", f"no {path} in {name}")
        folders = {start + known[len(start) :].split("/")[0] for known in inside} - tree.keys()
        files = inside if "recursive=true" in self.query else [known for known in inside if "/" not in known[len(start) :]]
        entries = [{"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in sorted(folders)]
        self._reply(entries + [tree[known].describe(known) for known in files])

    def _resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        _, commit_id, tree = self._open(kind, name, revision)
        if path not in tree:
            raise Refusal(404, "EntryNotFound", f"no {path} in {name}")
        file = tree[path]
        headers = {"X-Repo-Commit": commit_id, "ETag": f'"{file.etag}"'}
        if file.sha256:  # another host name, like the storage of the Hub
            linked = {"X-Linked-ETag": headers["ETag"], "X-Linked-Size": len(file.content)}
            self._reply(b"", 302, Location=f"http://localhost:{self.server.server_port}/large/{file.sha256}", **headers, **linked)
        else:
            self._send_file(file.content, **headers)


NAME, REVISION, OID = r"(?P<name>[^/]+/[^/]+)", r"(?P<revision>[^/]+)", "(?P<oid>[0-9a-f]{64})"
API, PREFIX = rf"/api/(?P<kind>models|datasets)/{NAME}", r"(?:/(?P<kind>datasets))?"
ROUTES = [
    ("GET", "/api/whoami-v2", Handler._who_am_i),
    ("POST", "/api/repos/create", Handler._create_repository),
    ("POST", "/api/validate-yaml", lambda handler: handler._reply({"errors": [], "warnings": []})),
    ("GET", rf"{API}(?:/revision/{REVISION})?", Handler._describe),
    ("GET", rf"{API}/tree/{REVISION}(?:/(?P<path>.+))?", Handler._list_tree),
    ("GET", rf"{API}/auth-check/write", Handler._check_write),
    ("POST", rf"{API}/branch/{REVISION}", Handler._create_branch),
    ("POST", rf"{API}/preupload/{REVISION}", Handler._choose_upload),
    ("POST", rf"{API}/commit/{REVISION}", Handler._commit),
    ("POST", rf"{PREFIX}/{NAME}\.git/info/lfs/objects/batch", Handler._start_large_uploads),
    ("PUT", f"/large/{OID}", Handler._receive_large_file),
    ("POST", f"/large/{OID}", Handler._verify_large_file),
    ("GET HEAD", f"/large/{OID}", Handler._send_large_file),
    ("GET HEAD", rf"{PREFIX}/{NAME}/resolve/{REVISION}/(?P<path>.+)", Handler._resolve),
]
