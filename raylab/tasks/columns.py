"""Files of one word a line in tab-separated columns, with an empty line between sentences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from raylab.errors import InputError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_line_blocks(path: Path) -> Iterator[list[tuple[int, str]]]:
    """Read the blocks of lines between empty lines.

    Only a line feed ends a line, with or without a carriage return before it: other characters that Unicode counts as
    line ends do occur inside words.

    Args:
        path: A UTF-8 file, with or without a byte order mark.

    Yields:
        The lines of one block, each with its number, counted from 1.

    Raises:
        InputError: The file cannot be read, or a line is not UTF-8.
    """
    block: list[tuple[int, str]] = []
    try:
        with path.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                if number == 1:
                    raw = raw.removeprefix(_BYTE_ORDER_MARK)
                try:
                    line = raw.removesuffix(b"\n").removesuffix(b"\r").decode()
                except UnicodeDecodeError as error:
                    raise InputError.at(
                        path,
                        number,
                        f"byte 0x{raw[error.start]:02x} at {error.start + 1} is not UTF-8; convert the file",
                    ) from None
                if line.strip():
                    block.append((number, line))
                elif block:
                    yield block
                    block = []
    except OSError as error:
        raise InputError.at(path, None, f"cannot be read ({error.strerror}); a labelled file should be there") from None
    if block:
        yield block


def split_columns(path: Path, number: int, line: str, expected: int, names: str) -> list[str]:
    """Cut a line into its tab-separated columns.

    Args:
        path: The file, for the error.
        number: The line's number, for the error.
        line: The line.
        expected: How many columns there must be.
        names: What the columns are, for the error.

    Raises:
        InputError: There are more or fewer columns.
    """
    columns = line.split("\t")
    if len(columns) != expected:
        raise InputError.at(
            path,
            number,
            f"{len(columns)} column{'s' * (len(columns) != 1)}, not {expected} ({names}, separated by tabs)",
        )
    return columns
