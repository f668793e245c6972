"""Probes: one question to one backend, asked in process, answered by an Outcome.

A probe never raises and holds no deadline of its own; ``ask`` does both for it. What
went wrong on our own side (no file descriptor, no port left) is UNKNOWN: it says
nothing of the backend.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from standfast.director.health import Outcome, Verdict

if TYPE_CHECKING:
    from standfast.director.config import Config
    from standfast.host import Host

OURS = {
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOBUFS,
    errno.ENOMEM,
    errno.EADDRNOTAVAIL,
    errno.EPERM,
    errno.EACCES,
}


class Probe(Protocol):
    """A way to ask a backend whether it is well."""

    async def check(self) -> Outcome:
        """Ask once.

        Raises:
            OSError: the connection failed.
        """
        ...


async def ask(probe: Probe, deadline: float) -> Outcome:
    """Ask once, within ``deadline`` seconds; raises nothing but cancellation."""
    try:
        async with asyncio.timeout(deadline):
            return await probe.check()
    except TimeoutError:
        return expired(deadline)
    except (OSError, ValueError, EOFError) as error:
        return complaint(error)


def complaint(error: Exception) -> Outcome:
    """Return what an error of asking means."""
    if isinstance(error, ssl.SSLError):
        # An OSError whose number is OpenSSL's, and means another thing.
        return Outcome(Verdict.FAIL, f"tls: {error.reason or error}".lower())
    if isinstance(error, OSError):
        verdict = Verdict.UNKNOWN if error.errno in OURS else Verdict.FAIL
        # asyncio puts its own words, with the address, where strerror's belong.
        words = os.strerror(error.errno) if error.errno else str(error)
        return Outcome(verdict, words.lower())
    return Outcome(Verdict.FAIL, str(error) or "answer cut short")


def expired(deadline: float) -> Outcome:
    """Return the failure to answer within ``deadline`` seconds."""
    return Outcome(Verdict.FAIL, f"no answer within {deadline * 1000:.0f} ms")


def failed(text: str) -> Outcome:
    """Return a failure with its reason."""
    return Outcome(Verdict.FAIL, text)


@lru_cache(maxsize=256)
def passed(text: str = "") -> Outcome:
    """Return a pass."""
    return Outcome(Verdict.PASS, text)


def open_probe(config: Config, name: str, host: Host | None) -> Probe:
    """Return the probe of a backend.

    Args:
        config: what is configured.
        name: of the backend.
        host: where programs run; probes of other kinds need none.
    """
    from standfast.director.probes import command, haproxy, http, tcp  # noqa: PLC0415

    section = config.probe(name)
    service = next((s for s in config.services if name in s.backends), None)
    backend = config.backends[name]
    address = backend.address
    if service is not None:
        address = backend.at(service.name, service.virtual[0]) or address
    where = (address.ip, section.port or address.port)
    if section.type == "tcp":
        return tcp.TcpProbe(where, section.proxy)
    if section.type in {"http", "https"}:
        kind = http.HttpProbe if section.type == "http" else http.TlsProbe
        return kind(where, section)
    if section.type == "agent":
        return haproxy.AgentProbe(where)
    if section.type == "haproxy":
        socket = runtime_socket(config, name)
        if not socket:
            return haproxy.PageProbe(http.HttpProbe(where, section), section.rows)
        return haproxy.SocketProbe(socket, section.rows)
    assert host is not None
    words = {"name": name, "address": where[0], "port": where[1]}
    argv = [word.format(**words) for word in section.command]
    return command.CommandProbe(argv, host, section.deadline_seconds())


def runtime_socket(config: Config, name: str) -> str:
    """Return where a backend's runtime socket is: a path, address:port, or nothing."""
    socket = config.file.backend[name].socket or config.probe(name).socket
    return socket.format(address=config.backends[name].address.ip)


__all__ = [
    "OURS",
    "Probe",
    "ask",
    "complaint",
    "expired",
    "failed",
    "open_probe",
    "passed",
    "runtime_socket",
]
