"""A small stand-in for the hub: repositories, commits (LFS too) and downloads, over HTTP."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKENS = {"hf_ann": "ann", "hf_bob": "bob", "hf_user": "user"}


def blob_id(content: bytes) -> str:
    """What git calls a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # id → files, in order

    @property
    def newest(self) -> str:
        return next(reversed(self.commits), "")


class Hub(ThreadingHTTPServer):
    """``asked``: 'METHOD path' of every request. ``down``: answer everything with that status."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.lfs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.down = 0


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def __getattr__(self, name):
        if name in ("do_HEAD", "do_GET", "do_POST", "do_PUT"):
            return self.answer
        raise AttributeError(name)

    def answer(self):
        path = self.path.split("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.user = TOKENS.get(token)
        if self.server.down:
            self.send(self.server.down, {"error": "down"})
            return
        for pattern, method in ROUTES.items():
            found = re.fullmatch(pattern, path)
            if found:
                getattr(self, method)(*found.groups(), body=body)
                return
        self.send(404, {"error": f"no route {path}"})

    def send(self, status, content=b"", **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def found(self, name, writing=False):
        """The repository, if whoever asks may see it; what the hub answers if not."""
        there = self.server.repositories.get(name)
        owner = self.user == name.split("/")[0]
        if self.user is None and (writing or there is None or there.private):
            self.send(401, {"error": "Invalid username or password."})
        elif there is None or (there.private and not owner):
            self.send(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        elif writing and not owner:
            self.send(403, {"error": "no rights"})
        elif there.gated and not owner:
            self.send(403, {"error": "gated"}, X_Error_Code="GatedRepo")
        else:
            return there
        return None

    def commit_of(self, there, revision):
        commit = there.newest if revision == "main" else revision
        if commit not in there.commits:
            self.send(404, {"error": "no revision"}, X_Error_Code="RevisionNotFound")
            return None
        return commit

    def create(self, body):
        asked = json.loads(body)
        name = f"{asked.get('organization') or self.user}/{asked['name']}"
        if self.user is None or self.user != name.split("/")[0]:
            self.send(403 if self.user else 401, {"error": "no rights"})
        elif name in self.server.repositories:
            self.send(409, {"error": "exists", "url": f"{self.server.url}/{name}"})
        else:
            private = asked.get("visibility") == "private" or asked.get("private") is True
            self.server.repositories[name] = Repository(private, commits={"0" * 40: {}})
            self.send(200, {"url": f"{self.server.url}/{name}", "id": name})

    def info(self, name, revision="main", body=b""):
        there = self.found(name)
        commit = there and self.commit_of(there, revision or "main")
        if commit:
            files = [{"rfilename": file} for file in there.commits[commit]]
            self.send(200, {"id": name, "sha": commit, "private": there.private, "siblings": files})

    def whoami(self, body):
        self.send(*((200, {"name": self.user}) if self.user else (401, {"error": "who?"})))

    def checked(self, body):
        self.send(200, {"errors": [], "warnings": []})

    def tree(self, name, revision, body):
        there = self.found(name)
        commit = there and self.commit_of(there, revision)
        if commit:
            files = there.commits[commit].items()
            self.send(
                200,
                [{"type": "file", "path": f, "size": len(c), "oid": blob_id(c)} for f, c in files],
            )

    def preupload(self, name, revision, body):
        if self.found(name, writing=True):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self.send(200, {"files": files})

    def batch(self, name, body):
        if self.found(name, writing=True):
            objects = [
                {
                    **one,
                    "actions": {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}},
                }
                for one in json.loads(body)["objects"]
            ]
            self.send(200, {"transfer": "basic", "objects": objects})

    def store(self, oid, body):
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.lfs[oid] = body
        self.send(200)

    def commit(self, name, revision, body):
        there = self.found(name, writing=True)
        if not there:
            return
        files = dict(there.commits[there.newest])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.lfs[value["oid"]]
        oid = hashlib.sha1(body + str(len(there.commits)).encode()).hexdigest()
        there.commits[oid] = files
        url = f"{self.server.url}/{name}/commit/{oid}"
        self.send(200, {"commitUrl": url, "commitOid": oid, "success": True})

    def download(self, name, revision, file, body):
        there = self.found(name)
        commit = there and self.commit_of(there, revision)
        if not commit:
            return
        if file not in there.commits[commit]:
            self.send(404, {"error": "none"}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            return
        content = there.commits[commit][file]
        self.send(200, content, X_Repo_Commit=commit, ETag=f'"{blob_id(content)}"')


NAME = r"([^/]+/[^/]+)"
ROUTES = {
    r"/api/repos/create": "create",
    r"/api/whoami-v2": "whoami",
    r"/api/validate-yaml": "checked",
    rf"/api/models/{NAME}/preupload/([^/]+)": "preupload",
    rf"/api/models/{NAME}/commit/([^/]+)": "commit",
    rf"/api/models/{NAME}/tree/([^/]+)": "tree",
    rf"/api/models/{NAME}/revision/([^/]+)": "info",
    rf"/api/models/{NAME}": "info",
    rf"/{NAME}\.git/info/lfs/objects/batch": "batch",
    rf"/{NAME}/resolve/([^/]+)/(.+)": "download",
    r"/lfs/(\w+)": "store",
}
