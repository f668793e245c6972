"""``director run`` and ``director check``."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random  # noqa: TID251 - drawn here, handed on
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from standfast.cli.director_log import log_to
from standfast.clock import SystemClock
from standfast.console import Console
from standfast.director.assembly import open_daemon
from standfast.director.config import parse_config
from standfast.director.control import alive
from standfast.director.election import watchdog
from standfast.director.opening import open_election, watched_group
from standfast.director.page import serve_page
from standfast.errors import StandfastError, UsageError
from standfast.host.local import LocalHost
from standfast.units import parse_duration

if TYPE_CHECKING:
    import argparse

    from standfast.director.apply import Daemon
    from standfast.director.config import Config

log = logging.getLogger("standfast.director")


def read_config(path: str) -> Config:
    """Return the configuration in a file.

    Raises:
        UsageError: it cannot be read, or is wrong.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"cannot read {path}: {reason.lower()}") from None
    return parse_config(text, path)


def run(arguments: argparse.Namespace) -> int:
    """Run the daemon until it is told to stop."""
    log_to(arguments)
    try:
        return _run(arguments)
    except StandfastError as error:
        if arguments.syslog is not None:
            log.error("%s", error.message)  # noqa: TRY400 - a line, no traceback
        raise


def _run(arguments: argparse.Namespace) -> int:
    host = LocalHost()
    daemon = open_daemon(
        read_config(arguments.config),
        host,
        reread=lambda: read_config(arguments.config),
        clock=SystemClock(),
        chance=random.Random(),  # noqa: S311 - jitter, no secret
        environment=os.environ,
    )
    # What was made at the start lives for ever; collecting it would delay probes.
    gc.freeze()
    try:
        asyncio.run(_live(daemon, host))
    finally:
        host.close()
    return 0


def release(arguments: argparse.Namespace) -> int:
    """Remove what a dead daemon left; what a supervisor runs after every stop."""
    config = read_config(arguments.config)
    console = Console("json" if arguments.json else "text", arguments.verbose)
    if alive(config.file.socket):
        raise StandfastError(
            f"a director answers on {config.file.socket}",
            hint="this is for when it is gone; to hand over, `standby` or stop it",
        )
    host = LocalHost()
    watched = watched_group(config, host)
    if watched is None:
        words = f"{config.file.election.kind}: no address is ours to remove"
        console.result({"master": "", "removed": [], "sentence": words}, words)
        return 0
    seconds = parse_duration(arguments.wait) if arguments.wait else watched.silence + 1
    master, here = asyncio.run(watchdog.release(watched, host, seconds))
    gone = list(watched.addresses) if master else []
    words = "no address was left here"
    if master:
        words = f"{master} is master: {', '.join(gone)} removed"
    elif here:
        words = f"nobody else was heard in {seconds:.1f} s: the addresses stay"
    console.result({"master": master, "removed": gone, "sentence": words}, words)
    return 0


async def _live(daemon: Daemon, host: LocalHost) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stop)
    loop.add_signal_handler(signal.SIGHUP, partial(_reload, daemon))
    listen = daemon.config.file.status.listen
    page = await serve_page(listen, daemon) if listen else None
    try:
        await daemon.run(lambda plane: open_election(daemon.config, plane, host))
    finally:
        if page is not None:
            page.close()


def _reload(daemon: Daemon) -> None:
    try:
        daemon.reload()
    except StandfastError as error:
        daemon.say(f"the configuration is refused, the old one stays: {error.message}")
