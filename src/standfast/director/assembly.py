"""From a configuration to a daemon that is ready to run.

The machine comes in as a Host, so that the same daemon runs on another one, or on a
script of what one has said.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from standfast.director.apply import Daemon
from standfast.director.drivers import open_driver
from standfast.director.notify import Notifier
from standfast.director.opening import Teller, inner_addresses, inner_cards
from standfast.director.plane import Plane
from standfast.director.proving import TunnelProver
from standfast.errors import StandfastError

if TYPE_CHECKING:
    import random  # noqa: TID251 - the type; the values are handed in
    from collections.abc import Callable, Mapping

    from standfast.clock import Clock
    from standfast.director.config import Config
    from standfast.host import Host


def open_daemon(
    config: Config,
    host: Host,
    *,
    reread: Callable[[], Config],
    clock: Clock,
    chance: random.Random,
    environment: Mapping[str, str],
) -> Daemon:
    """Return a director that has touched nothing yet.

    Args:
        config: what it shall do.
        host: the machine that it directs.
        reread: reads the configuration again; raises what is wrong with it.
        clock: wall time.
        chance: for jitter.
        environment: names the supervisor; see notify.Notifier.

    Raises:
        StandfastError: the data plane is not to be had here.
    """
    driver = open_driver(config.file.driver, host)
    capabilities = driver.detect()
    if capabilities.missing:
        raise StandfastError("; ".join(capabilities.missing))
    section = config.file.election
    proves = section.verify == "probe" and config.file.driver == "nftables"
    plane = partial(
        Plane,
        driver,
        guard=section.kind != "none",
        inner=inner_cards(config, host),
        tell=Teller(inner_addresses(config)),
        prove=TunnelProver(host, section.verify_from) if proves else None,
    )
    return Daemon(
        config,
        reread=reread,
        driver=driver,
        host=host,
        clock=clock,
        chance=chance,
        notifier=Notifier(environment),
        plane=plane,
    )
