"""What ExaBGP runs: passes its process API on to the director, and nothing more.

ExaBGP starts this program, reads commands from its output and writes answers to its
input; the director listens on a Unix socket. When the director is away the relay
waits and the routes stay, as traffic shall go on without the daemon; when ExaBGP
goes, so does the relay. Run it as ``python -m standfast.director.bgp_relay SOCKET``.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys

# How long to wait for a director that is not there.
AGAIN_S = 0.2
CHUNK = 65536
STDIN, STDOUT = 0, 1


def relay(path: str) -> None:
    """Pass everything on until ExaBGP closes our input."""
    director: socket.socket | None = None
    while True:
        if director is None:
            director = _connect(path)
        readers: list[int | socket.socket] = [STDIN]
        if director is not None:
            readers.append(director)
        timeout = None if director is not None else AGAIN_S
        ready, _, _ = select.select(readers, [], [], timeout)
        if STDIN in ready:
            answers = os.read(STDIN, CHUNK)
            if not answers:
                return
            director = _pass_on(director, answers)
        if director is not None and director in ready:
            director = _fetch(director)


def _connect(path: str) -> socket.socket | None:
    one = socket.socket(socket.AF_UNIX)
    try:
        one.connect(path)
    except OSError:
        one.close()
        return None
    return one


def _pass_on(director: socket.socket | None, answers: bytes) -> socket.socket | None:
    """Give answers to the director; nobody wants those that it is away for."""
    if director is not None:
        with contextlib.suppress(OSError):
            director.sendall(answers)
    return director


def _fetch(director: socket.socket) -> socket.socket | None:
    """Give what the director says to ExaBGP; return None when it has gone."""
    try:
        commands = director.recv(CHUNK)
    except OSError:
        commands = b""
    if not commands:
        director.close()
        return None
    while commands:
        commands = commands[os.write(STDOUT, commands) :]
    return director


if __name__ == "__main__":
    relay(sys.argv[1])
