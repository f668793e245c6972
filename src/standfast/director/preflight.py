"""What ``director check`` says of the election before it begins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from standfast.director.election import carp, vrrp
from standfast.director.opening import kernel_group, virtual_addresses, watched_group
from standfast.errors import CommandError, StandfastError
from standfast.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from standfast.director.config import Config
    from standfast.host import Host

# When Linux sends again what was not acknowledged, in seconds after the first time:
# 0.2 s, then twice as long each (RFC 6298 with the kernel's smallest timeout).
RETRANSMISSIONS = (0.2, 0.6, 1.4, 3.0, 6.2, 12.6)
NONLOCAL_BIND = ("sysctl", "-n", "net.ipv4.ip_nonlocal_bind")
COMMAND_SECONDS = 5.0


@dataclass(frozen=True)
class Preflight:
    """What is known of an election that has not begun.

    Attributes:
        notes: sentences.
        missing: sentences on what stands in its way.
        takeover: seconds until this director has taken over from a dead one; None
            where that is not ours to say.
        stall: seconds for which clients' open connections stand still then.
    """

    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    takeover: float | None = None
    stall: float | None = None


def preflight(config: Config, host: Host) -> Preflight:
    """Return what can be said of the election on this host; changes nothing."""
    section = config.file.election
    try:
        missing = tuple(_missing(config, host))
    except StandfastError as error:
        missing = (error.message,)
    takeover = takeover_seconds(config)
    notes = tuple(_notes(config))
    if takeover is None:
        return Preflight(notes, missing)
    stall = stall_seconds(takeover)
    said = (
        f"{section.kind}: a dead holder is replaced within {takeover:.2f} s; clients' "
        f"connections go on after at most {stall:.1f} s"
    )
    return Preflight((said, *notes), missing, takeover, stall)


def takeover_seconds(config: Config) -> float | None:
    """Return how long after its last advert a dead holder is replaced by this node.

    By the timers of the protocol, at this node's best rank, without the time that
    it takes to move the addresses (some 30 ms).
    """
    section = config.file.election
    seconds = parse_duration(section.interval)
    if section.kind == "vrrp":
        ticks = max(1, round(seconds / vrrp.CENTISECOND))
        return vrrp.dead_seconds(section.priority, ticks)
    if section.kind == "carp":
        skew = carp.skew_of_rank(section.priority)
        return carp.dead_seconds(max(1, round(seconds)), skew or 0)
    return None


def stall_seconds(outage: float) -> float:
    """Return when TCP sends the first segment that gets through after an outage."""
    later = (at for at in RETRANSMISSIONS if at >= outage)
    return next(later, 2 * outage)


def _missing(config: Config, host: Host) -> Iterator[str]:
    """Yield what stands in the way.

    Raises:
        StandfastError: something does.
    """
    section = config.file.election
    if section.kind in ("carp", "vrrp"):
        watched_group(config, host)
    elif section.kind == "external":
        if _word(host, NONLOCAL_BIND) == "1":
            yield "net.ipv4.ip_nonlocal_bind is 1: nobody can tell who has an address"
        if section.rank_file and not Path(section.rank_file).parent.is_dir():
            yield f"election.rank_file: {Path(section.rank_file).parent} is no folder"
    elif section.kind == "bgp":
        if not Path(section.relay).parent.is_dir():
            yield f"election.relay: {Path(section.relay).parent} is no folder"
    elif section.kind == "freebsd-carp":
        from standfast.director.election import freebsd  # noqa: PLC0415

        yield from freebsd.missing(host, kernel_group(config))


def _notes(config: Config) -> Iterator[str]:
    section, file = config.file.election, config.file
    if section.kind == "carp" and not section.sealed:
        yield (
            "carp: priorities are not authentic; between directors of ours set "
            "election.sealed"
        )
    if section.kind == "vrrp" and not section.passphrase_file:
        yield (
            "vrrp: adverts are not authentic; between directors of ours set "
            "election.passphrase_file"
        )
    if section.kind == "external" and not section.rank_file:
        yield "external: without election.rank_file our rank moves nothing"
    tracked = [s.name for s in config.services if s.mode == "nat"]
    if section.kind == "bgp" and tracked:
        yield (
            f"bgp: {', '.join(tracked)}: mode nat breaks connections when routers use "
            "several directors at once; use stateless or dsr, or unequal priorities"
        )
    if section.kind in ("carp", "vrrp") and not file.peer.address:
        yield "no [peer]: tables are not compared, and no flow is pinned"
    families = {address.version for address in virtual_addresses(config)}
    if section.kind == "carp" and len(families) > 1:
        yield "carp: addresses of both families agree with no other implementation"


def _word(host: Host, argv: tuple[str, ...]) -> str:
    try:
        result = host.run(argv, timeout=COMMAND_SECONDS)
    except CommandError:
        return ""
    return result.stdout.decode().strip()
