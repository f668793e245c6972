"""The daemon's ear: one JSON request and one JSON answer for each connection.

A Unix socket; who may speak is who may open it (mode 0660). A request is a line
``{"do": "drain", "backend": "h1"}``, an answer a line with ``ok`` and what was asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from typing import TYPE_CHECKING, Any

from standfast.errors import StandfastError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LIMIT = 1 << 16
SECONDS = 10.0
Answer = dict[str, Any]


class ControlError(StandfastError):
    """The daemon is not there, or refused what was asked."""


async def serve(
    path: str, answer: Callable[[Answer], Awaitable[Answer]]
) -> asyncio.Server:
    """Listen on a Unix socket until the server is closed.

    Raises:
        ControlError: another daemon listens there, or the place cannot be used.
    """
    if alive(path):
        raise ControlError(f"another daemon listens on {path}")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(SECONDS):
                line = await reader.readline()
                reply = await _answered(line, answer)
                writer.write(json.dumps(reply).encode() + b"\n")
                await writer.drain()
        except (TimeoutError, OSError, ValueError):
            pass  # who asked has gone, or never asked anything
        finally:
            writer.close()

    old = os.umask(0o117)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - of a daemon that is dead
        return await asyncio.start_unix_server(talk, path, limit=LIMIT)
    except OSError as error:
        raise ControlError(f"cannot listen on {path}: {error.strerror}") from None
    finally:
        os.umask(old)


async def _answered(
    line: bytes, answer: Callable[[Answer], Awaitable[Answer]]
) -> Answer:
    try:
        request = json.loads(line)
        if not isinstance(request, dict):
            raise ControlError("a request is a JSON object")
        return {"ok": True, **await answer(request)}
    except (StandfastError, ValueError, KeyError) as error:
        text = error.message if isinstance(error, StandfastError) else str(error)
        hint = error.hint if isinstance(error, StandfastError) else ""
        return {"ok": False, "error": text, "hint": hint}


def ask(path: str, request: Answer) -> Answer:
    """Put one request to the daemon.

    Raises:
        ControlError: there is no daemon, or it refused.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(SECONDS)
            sock.connect(path)
            sock.sendall(json.dumps(request).encode() + b"\n")
            with sock.makefile("rb") as lines:
                reply: Answer = json.loads(lines.readline())
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or "it answered nothing"
        raise ControlError(
            f"no director answers on {path}: {words.lower()}",
            hint="is `standfast director run` up, and may you open its socket?",
        ) from None
    if not reply.pop("ok", False):
        raise ControlError(reply.get("error", "refused"), hint=reply.get("hint", ""))
    return reply


def alive(path: str) -> bool:
    """Return whether a daemon listens there."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(1)
            sock.connect(path)
    except OSError:
        return False
    return True
