"""Fixtures of the storage's tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import Nodes

from raylab.search.object_storage import ObjectStorage


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A local S3 server with the bucket `results`."""
    from s3_server import s3_server  # its packages take a second

    with s3_server("results") as server:
        yield server


@pytest.fixture
def nodes(server: Any, request: pytest.FixtureRequest, tmp_path: Path) -> Nodes:
    """The storage of a test, as the node of a name sees it."""
    uri = f"s3://results/{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}"
    return lambda name: ObjectStorage.at(uri, tmp_path / name)
