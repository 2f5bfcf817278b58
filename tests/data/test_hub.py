"""Text of the Hugging Face hub, from a server on this machine that answers as the hub does."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
API, FILES = "/api/datasets/owner/wiki", "/datasets/owner/wiki/resolve/"

pytestmark = pytest.mark.slow  # the client of the hub is imported anew in each


class Hub(ThreadingHTTPServer):
    """One public data set, `owner/wiki`, as it lies in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.read: list[str] = []

    def entry(self, path: PurePosixPath) -> dict[str, object]:
        file = self.folder / path
        if file.is_dir():
            return {"type": "directory", "oid": "0", "size": 0, "path": str(path)}
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        size = file.stat().st_size
        lfs = {"oid": digest, "size": size, "pointerSize": 130}
        return {"type": "file", "oid": digest[:40], "size": size, "path": str(path), "lfs": lfs}

    def entries(self, path: str, *, below: bool) -> list[dict[str, object]]:
        found = (self.folder / path).rglob("*") if below else (self.folder / path).iterdir()
        return [self.entry(PurePosixPath(file.relative_to(self.folder).as_posix())) for file in sorted(found)]


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        url = urlsplit(unquote(self.path))
        if url.path in (API, f"{API}/revision/main"):
            self._send(200, json.dumps({"id": "owner/wiki", "sha": COMMIT, "siblings": []}).encode())
        elif url.path.startswith(f"{API}/tree/main"):
            path = url.path.removeprefix(f"{API}/tree/main").strip("/")
            if not (self.server.folder / path).is_dir():
                self._send(404, b"", X_Error_Code="EntryNotFound")
                return
            below = "recursive=true" in url.query.lower()
            self._send(200, json.dumps(self.server.entries(path, below=below)).encode())
        elif url.path.startswith(f"{FILES}main/") or url.path.startswith(f"{FILES}{COMMIT}/"):
            path = url.path.removeprefix(FILES).partition("/")[2]
            self.server.read.append(path)
            contents = (self.server.folder / path).read_bytes()
            start, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            part = contents[int(start) : int(end) + 1 if end else None]
            self._send(206 if "Range" in self.headers else 200, part, ETag='"x"')
        else:
            self._send(404, b"", X_Error_Code="RepoNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == f"{API}/paths-info/main"
        paths = [PurePosixPath(path) for path in body["paths"]]
        self._send(200, json.dumps([self.server.entry(p) for p in paths if (self.server.folder / p).exists()]).encode())

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = tmp_path / "hub"
    (folder / "20231101.en").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: cc-by-sa-3.0\n---\n")
    for shard in range(2):
        texts = [
            f"Article {n} tells of Mr. Name {n}. It has a second sentence.\n\nSee also." for n in range(shard, 200, 2)
        ]
        columns = {"id": range(100), "url": ["x"] * 100, "title": texts, "text": texts}
        pq.write_table(pa.table(columns), folder / "20231101.en" / f"train-0000{shard}-of-00002.parquet")
    server = Hub(folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _prepare(hub: Hub, tmp_path: Path, location: str) -> subprocess.CompletedProcess[str]:
    content = {
        "study": "hub",
        "data": {"text": {"en": location}, "vocab_size": 60, "sentence_split": "rules", "demo_scale": 1e-5},
        "languages": [["en"]],
        "variants": ["mono"],
        "finetune": None,
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "raylab.data", "describe", str(tmp_path / "study.yaml"), "--json"]
    environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HUB_DISABLE_XET": "1"}
    command += ["--storage", str(tmp_path / "runs")]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)


def test_a_data_set_of_the_hub_is_read_once(hub: Hub, tmp_path: Path) -> None:
    done = _prepare(hub, tmp_path, "hf:owner/wiki/20231101.en")
    assert done.returncode == 0, done.stderr
    sentences = json.loads(done.stdout)["text"][0]["by_language"]["en"]["sentences"]
    held_out = sentences["valid"] // 3  # documents; of the others, two of three sentences stand in valid too
    assert 0 < held_out < 10
    assert sentences["train"] + sentences["meta"] == 200 - held_out
    assert set(hub.read) == {f"20231101.en/train-0000{shard}-of-00002.parquet" for shard in range(2)}
    text = next((tmp_path / "runs" / "text").glob("*/train.txt")).read_text().splitlines()
    assert text[:3] == ["Article 0 tells of Mr. Name 0.", "It has a second sentence.", "See also."]
    hub.read.clear()
    assert _prepare(hub, tmp_path, "hf:owner/wiki/20231101.en/train-*.parquet").returncode == 0
    assert hub.read == []  # the same files, by their checksums


def test_what_the_hub_does_not_have_is_one_line(hub: Hub, tmp_path: Path) -> None:
    for location in ("hf:owner/wiki/20231101.xx", "hf:owner/other/en"):
        done = _prepare(hub, tmp_path, location)
        assert done.returncode == 2
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("raylab: ")]
        assert line.startswith(f"raylab: hf://datasets/{location.removeprefix('hf:')}: no such file or folder")
