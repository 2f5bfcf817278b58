from __future__ import annotations

from pathlib import Path

import pytest

from raylab.atomic import atomic_path


def test_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("as_folder", [False, True])
def test_an_error_leaves_what_was_there(tmp_path: Path, as_folder: bool) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            if as_folder:
                temporary.mkdir()
                temporary = temporary / "inside"
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_folder_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "theirs").touch()

    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.mkdir()

    with pytest.raises(OSError, match="not empty"):
        write()
    assert list(tmp_path.rglob("*")) == [path, path / "theirs"]
