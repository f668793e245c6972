"""One node of an election, run in a network namespace by the tests.

The argument is JSON: kind, pace, and the fields of GroupSettings. On standard input
come lines: ``rank N``, ``refused``, ``stop``, ``abandon``. Standard output has one
JSON line for each change of role, with CLOCK_MONOTONIC, which all namespaces share.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from standfast.director.election.external import ExternalElection
from standfast.director.election.opening import GroupSettings, open_group
from standfast.director.election.speaker import Speaker
from standfast.host.local import LocalHost

if TYPE_CHECKING:
    from standfast.director.election import Election


def say(**words: object) -> None:
    print(json.dumps(words | {"at": time.monotonic()}), flush=True)


async def run(wish: dict[str, Any]) -> None:
    kind, pace = wish.pop("kind"), wish.pop("pace")
    for name in ("addresses", "peers"):
        wish[name] = tuple(map(ip_address, wish.get(name, ())))
    wish["key"] = str(wish.get("key", "")).encode()
    host = LocalHost()
    election: Election
    if kind == "external":
        election = ExternalElection(
            wish["addresses"], rank_file=Path(wish["rank_file"])
        )
    else:
        election = open_group(kind, GroupSettings(**wish), pace, host=host)
    changes = election.events()

    async def report() -> None:
        async for change in changes:
            say(role=change.role.value, why=change.sentence)

    reporter = asyncio.create_task(report())
    await election.start()
    say(started=os.getpid())
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := (await lines.readline()).decode().split():
        match line:
            case ["rank", rank]:
                election.set_rank(int(rank), "the test said so")
            case ["refused"] if isinstance(election, Speaker):
                say(refused=dict(election.refused))
            case ["stop"]:
                await election.stop(handover=True)
                say(stopped=True)
                break
            case ["abandon"]:
                await election.stop(handover=False)
                break
    await reporter
    host.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    asyncio.run(run(json.loads(sys.argv[1])))
