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
from standfast.director import plan
from standfast.director.assembly import open_daemon
from standfast.director.config import parse_config
from standfast.director.drivers import open_driver
from standfast.director.model import Wanted, digest
from standfast.director.opening import open_election
from standfast.director.page import serve_page
from standfast.errors import StandfastError, UsageError
from standfast.host.local import LocalHost

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


def check(arguments: argparse.Namespace) -> int:
    """Say whether the configuration holds here, and show the rules."""
    config = read_config(arguments.config)
    driver = open_driver(config.file.driver, LocalHost())
    can = driver.detect()
    state = plan.step(
        plan.State(),
        plan.Configured(
            config.services, config.backends, config.paces, config.policy, 0.0
        ),
    ).state
    wanted = Wanted(
        config.services,
        config.backends,
        plan.tables(state),
        guard=False,
        front=config.file.front,
        back=config.file.back,
    )
    lacks = sorted({s.mode for s in config.services} - set(can.modes))
    missing = [*can.missing, *(f"mode {mode} does not work here" for mode in lacks)]
    rules = ""
    if not missing:
        observed = driver.observe(wanted)
        blank = type(observed)(present=False)
        rules = "\n".join(change.command for change in driver.plan(blank, wanted))
    document = {
        "configuration": "good",
        "driver": can.driver,
        "version": can.version,
        "modes": list(can.modes),
        "notes": list(can.notes),
        "missing": missing,
        "digest": digest(wanted),
        "rules": rules,
    }
    console = Console("json" if arguments.json else "text", arguments.verbose)
    lines = [f"{arguments.config} is good; {can.driver} here: {can.version or 'none'}"]
    lines += [f"  {note}" for note in can.notes]
    lines += [f"  missing: {note}" for note in missing]
    console.result(document, "\n".join([*lines, rules]))
    return 1 if missing else 0


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
