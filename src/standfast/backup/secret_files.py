"""Files that hold a secret: read only where nobody else can."""

from __future__ import annotations

import stat
from pathlib import Path

from standfast.errors import UsageError


def read_secret(name: str) -> bytes:
    """Return the contents of a file that only its owner may read.

    Raises:
        UsageError: it cannot be read, or others can read it too.
    """
    try:
        path = Path(name).expanduser()
        mode = path.stat().st_mode
        if stat.S_ISREG(mode) and mode & 0o077:
            raise UsageError(
                f"others can read {name}", hint=f"chmod 600 {name}, then try again"
            )
        return path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "error").lower()
        raise UsageError(
            f"cannot read {name}: {reason}",
            hint="is the path right, and the disk with the key there?",
        ) from None


def read_passphrase(name: str) -> str:
    """Return the first line of a file that only its owner may read.

    Raises:
        UsageError: it cannot be read, or the line is empty.
    """
    return read_first_line(name, "passphrase")


def read_first_line(name: str, what: str) -> str:
    """Return the first line of a file that only its owner may read.

    Args:
        name: the file.
        what: what it holds, for messages.

    Raises:
        UsageError: it cannot be read, or the line is empty.
    """
    try:
        line = read_secret(name).decode().partition("\n")[0].rstrip("\r")
    except UnicodeDecodeError:
        raise UsageError(f"{name} holds no text") from None
    if not line:
        raise UsageError(f"{name} holds no {what} in its first line")
    return line
