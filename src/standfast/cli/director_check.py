"""``director check``: the file, this host, the election, and the rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from standfast.cli.director_run import read_config
from standfast.console import Console
from standfast.director import plan
from standfast.director.drivers import open_driver
from standfast.director.model import Wanted, configuration_digest, digest
from standfast.director.preflight import preflight
from standfast.host.local import LocalHost

if TYPE_CHECKING:
    import argparse

    from standfast.director.config import Config
    from standfast.host import Host


def check(arguments: argparse.Namespace) -> int:
    """Say whether the configuration holds here, and show the rules."""
    config = read_config(arguments.config)
    document = checked(config, LocalHost())
    console = Console("json" if arguments.json else "text", arguments.verbose)
    tool = f"{document['driver']} here: {document['version'] or 'none'}"
    lines = [f"{arguments.config} is good; {tool}"]
    lines += [f"  {note}" for note in document["notes"]]
    lines += [f"  missing: {note}" for note in document["missing"]]
    console.result(document, "\n".join([*lines, document["rules"]]))
    return 1 if document["missing"] else 0


def checked(config: Config, host: Host) -> dict[str, Any]:
    """Return what there is to say of a configuration on a host; changes nothing."""
    driver = open_driver(config.file.driver, host)
    can, election, wanted = driver.detect(), preflight(config, host), _wanted(config)
    lacks = sorted({s.mode for s in config.services} - set(can.modes))
    missing = [*can.missing, *(f"mode {mode} does not work here" for mode in lacks)]
    rules = ""
    if not missing:
        observed = driver.observe(wanted)
        blank = type(observed)(present=False)
        rules = "\n".join(change.command for change in driver.plan(blank, wanted))
    return {
        "configuration": "good",
        "driver": can.driver,
        "version": can.version,
        "modes": list(can.modes),
        "notes": [*can.notes, *election.notes],
        "missing": [*missing, *election.missing],
        "digest": digest(wanted),
        "configuration_digest": configuration_digest(wanted),
        "takeover_seconds": election.takeover,
        "stall_seconds": election.stall,
        "rules": rules,
    }


def _wanted(config: Config) -> Wanted:
    """Return what a director would load before its first probe."""
    configured = plan.Configured(
        config.services, config.backends, config.paces, config.policy, 0.0
    )
    return Wanted(
        config.services,
        config.backends,
        plan.tables(plan.step(plan.State(), configured).state),
        guard=False,
        front=config.file.front,
        back=config.file.back,
    )
