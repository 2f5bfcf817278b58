"""The one exception that means "the input is wrong", as opposed to "raylab is wrong"; and what others say, short."""

from __future__ import annotations

from pathlib import Path

_LONGEST_REASON = 300  # characters; some libraries list all that they know


def one_line(error: BaseException) -> str:
    """What a library says went wrong, as one line that is not too long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."


class InputError(ValueError):
    """Bad input from the user: configuration, data or address.

    The message is one line that names the file (and line or field), what was found and what would be right.
    Command-line programs print it and exit with code 2.
    """

    @classmethod
    def at(cls, path: str | Path, line: int | None, message: str) -> InputError:
        """An error at a place in a file.

        Args:
            path: The file.
            line: The line, counted from 1, or None for the file as a whole.
            message: What was found and what would be right.
        """
        place = f"{path}:{line}" if line is not None else str(path)
        return cls(f"{place}: {message}")
