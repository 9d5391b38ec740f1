"""A stand-in of the hub's HTTP interface on the loopback: what its client asks to make, fill and fetch repositories.

Files of at least ``LARGE`` bytes go through large file storage, as the client is told; the others through the commits.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 2048
TOKEN = "hf_of_the_test"
_REPO = r"(models|datasets)/([^/]+/[^/]+)"


def git_oid(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Repo:
    def __init__(self):
        self.branches = {"main": "0" * 40}
        self.commits = {"0" * 40: {}}

    def files(self, revision):
        return self.commits.get(self.branches.get(revision, revision))

    def commit(self, branch, files):
        sha = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha


class Hub(ThreadingHTTPServer):
    """``repos`` by kind and name; ``asked`` are all requests; ``failures`` are (method, part of the path, status)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.blobs, self.asked, self.failures = {}, {}, [], []
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def content(self, kind, name, revision="main"):
        """The files of a repository as their bytes."""
        return dict(self.repos[kind, name].files(revision))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, document, status=200):
        self._answer(status, json.dumps(document).encode(), Content_Type="application/json")

    def _handle(self):
        body = self._body()
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        with self.server.lock:
            self.server.asked.append((self.command, path))
            for failure in self.server.failures:
                method, part, status = failure
                if method == self.command and part in path:
                    self.server.failures.remove(failure)
                    self._json({"error": "out of order"}, status)
                    return
            writes = self.command == "POST"
            if writes and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._json({"error": "Invalid username or password."}, 401)
                return
            for pattern, handle in ROUTES:
                match = re.fullmatch(pattern, f"{self.command} {path}")
                if match:
                    handle(self, body, *match.groups(), query=parse_qs(parts.query))
                    return
        self._json({"error": "no such page"}, 404)

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while length := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(length))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815 (the names that the base class calls)

    def repo(self, kind, name):
        found = self.server.repos.get((kind, name))
        if found is None:
            self._answer(404, b"{}", X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        return found

    def create(self, body, query):
        asked = json.loads(body)
        kind = f"{asked.get('type') or 'model'}s"
        name = f"{asked['organization']}/{asked['name']}"
        new = (kind, name) not in self.server.repos
        if new:
            self.server.repos[kind, name] = Repo()
        prefix = "" if kind == "models" else f"{kind}/"
        self._json({"url": f"{self.server.url}/{prefix}{name}"}, 200 if new else 409)

    def info(self, body, kind, name, revision=None, query=None):
        repo = self.repo(kind, name)
        if repo is None:
            return
        revision = revision or "main"
        files = repo.files(revision)
        if files is None:
            self._answer(404, b"{}", X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
            return
        siblings = [{"rfilename": path, "size": len(content)} for path, content in files.items()]
        sha = repo.branches.get(revision, revision)
        self._json({"id": name, "sha": sha, "siblings": siblings, "private": False, "tags": [], "downloads": 0})

    def tree(self, body, kind, name, revision, query):
        repo = self.repo(kind, name)
        if repo is None:
            return
        entries = []
        for path, content in repo.files(revision).items():
            entry = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
            if len(content) >= LARGE:
                oid = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 100}
            entries.append(entry)
        self._json(entries)

    def branch(self, body, kind, name, branch, query):
        repo = self.repo(kind, name)
        repo.branches.setdefault(branch, repo.branches["main"])
        self._json({})

    def preupload(self, body, kind, name, revision, query):
        repo = self.repo(kind, name)
        if repo is None:
            return
        there, modes = repo.files(revision), []
        for file in json.loads(body)["files"]:
            large = file["size"] >= LARGE
            mode = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if file["path"] in there:
                content = there[file["path"]]
                mode["oid"] = hashlib.sha256(content).hexdigest() if large else git_oid(content)
            modes.append(mode)
        self._json({"files": modes})

    def batch(self, body, kind, name, query):
        objects = []
        for wanted in json.loads(body)["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.server.blobs:
                entry["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{wanted['oid']}", "header": {}}}
            objects.append(entry)
        self._json({"transfer": "basic", "objects": objects})

    def upload(self, body, oid, query):
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.blobs[oid] = body
        self._answer(200)

    def commit(self, body, kind, name, revision, query):
        repo = self.repo(kind, name)
        files = dict(repo.files(revision))
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
        sha = repo.commit(revision, files)
        self._json({"commitUrl": f"{self.server.url}/{name}/commit/{sha}", "commitOid": sha, "success": True})

    def resolve(self, body, kind, name, revision, path, query):
        repo = self.repo(kind or "models", name)
        if repo is None:
            return
        content = (repo.files(revision) or {}).get(path)
        if content is None:
            self._answer(404, b"", X_Error_Code="EntryNotFound")
            return
        large = len(content) >= LARGE
        etag = hashlib.sha256(content).hexdigest() if large else git_oid(content)
        headers = {"X_Repo_Commit": revision, "ETag": f'"{etag}"', "Accept_Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked and self.command == "GET":
            start = int(asked[1])
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._answer(206, content[start:], **headers)
        else:
            self._answer(200, content, **headers)

    def validate(self, body, query):
        self._json({"errors": [], "warnings": []})


ROUTES = (
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.validate),
    (rf"GET /api/{_REPO}", Handler.info),
    (rf"GET /api/{_REPO}/revision/(.+)", Handler.info),
    (rf"GET /api/{_REPO}/tree/([^/]+)", Handler.tree),
    (rf"POST /api/{_REPO}/branch/(.+)", Handler.branch),
    (rf"POST /api/{_REPO}/preupload/(.+)", Handler.preupload),
    (rf"POST /api/{_REPO}/commit/(.+)", Handler.commit),
    (r"POST /(?:(datasets)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /lfs/([0-9a-f]+)", Handler.upload),
    (r"(?:GET|HEAD) /(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", Handler.resolve),
)


@contextmanager
def serve():
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
