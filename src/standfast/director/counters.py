"""What an upgrade asks of the daemon: each HAProxy's own counters, and how it is asked.

The daemon knows the runtime sockets and the probes; whoever upgrades may not.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from standfast.director.probes import ask, open_probe, runtime_socket
from standfast.director.probes.haproxy import CounterProbe
from standfast.director.probes.http import HttpProbe, TlsProbe
from standfast.director.upgrading import read_counters

if TYPE_CHECKING:
    from standfast.director.config import Config

SECONDS = 1.0


async def counters(config: Config) -> dict[str, Any]:
    """Return for each backend its counters and its page.

    ``counters`` is None where there is no runtime socket, or nobody answers at it;
    ``page`` (ip, port, path, host, tls) is None where the probe is no page.
    """
    names = list(config.backends)
    readings = await asyncio.gather(*(_counted(config, name) for name in names))
    return {
        name: {"counters": reading, "page": _page(config, name)}
        for name, reading in zip(names, readings, strict=True)
    }


async def _counted(config: Config, name: str) -> dict[str, Any] | None:
    where = runtime_socket(config, name)
    if not where:
        return None
    outcome = await ask(CounterProbe(where), SECONDS)
    reading = read_counters(outcome.text)
    return asdict(reading) if reading is not None else None


def _page(config: Config, name: str) -> dict[str, Any] | None:
    section = config.probe(name)
    if section.type not in {"http", "https"} or section.proxy:
        return None
    probe = open_probe(config, name, None)
    assert isinstance(probe, HttpProbe | TlsProbe)
    where = probe.where
    assert not isinstance(where, str)
    return {
        "ip": where[0],
        "port": where[1],
        "path": section.path,
        "host": section.host,
        "tls": section.type == "https",
    }
