"""A Hugging Face Hub on this machine: just enough of its HTTP for huggingface_hub's own client to download from it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def local_hub(repositories: dict[str, Path], cache: Path) -> Iterator[list[str]]:
    """Serve folders as repositories ("org/name" -> folder); yields the paths of the files as they are downloaded."""
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, body: bool) -> None:
            path = self.path.partition("?")[0].strip("/")
            for name, folder in repositories.items():
                files = sorted(file for file in folder.rglob("*") if file.is_file())
                if path in (f"api/models/{name}", f"api/models/{name}/revision/main"):
                    return self._json(_info(name, folder, files))
                if path == f"api/models/{name}/revision/{COMMIT}":
                    return self._json(_info(name, folder, files))
                if path.startswith(f"api/models/{name}/tree/"):
                    return self._json([_entry(folder, file) for file in files])
                if path.startswith(f"{name}/resolve/"):
                    file = path.removeprefix(f"{name}/resolve/").partition("/")[2]
                    return self._file(folder / file, file, body)
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()

        def _json(self, content: object) -> None:
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _file(self, file: Path, name: str, body: bool) -> None:
            data = file.read_bytes()
            if body:
                fetched.append(name)
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    here = f"http://127.0.0.1:{server.server_port}"
    template = here + "/{repo_id}/resolve/{revision}/{filename}"
    try:
        with (
            patch("huggingface_hub.constants.ENDPOINT", here),
            patch("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template),
            patch("huggingface_hub.constants.HF_HUB_OFFLINE", False),
            patch("huggingface_hub.constants.HF_HUB_CACHE", str(cache)),
        ):
            yield fetched
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _info(name: str, folder: Path, files: list[Path]) -> dict[str, object]:
    siblings = [{"rfilename": file.relative_to(folder).as_posix()} for file in files]
    return {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}


def _entry(folder: Path, file: Path) -> dict[str, object]:
    data = file.read_bytes()
    path = file.relative_to(folder).as_posix()
    return {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
