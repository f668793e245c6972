"""What pfctl prints, read: states, source nodes, tables, rules and what it refused.

Pure functions over text. Formats from sbin/pfctl (pf_print_state.c, pfctl_table.c,
pfctl.c) of FreeBSD 10.4 to main; releases differ only in what they append to a line,
so whatever follows the parts that are named here is passed over. Lines that fit no
format are skipped where the list may hold other things, and never guessed at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from standfast.director.model import Address, Flow

if TYPE_CHECKING:
    from collections.abc import Iterable

# Both ends past these have nothing more to say; tcpstates[] in pf_print_state.c.
CLOSING = frozenset({"FIN_WAIT_2", "TIME_WAIT", "CLOSED"})

# IF PROTO A[:P] [(B:P)] ->|<- C[:P] [(D:P)]       SRC:DST
_STATE = re.compile(
    r"^(?P<on>\S+) (?P<proto>\S+) (?P<a>\S+)(?: \((?P<a2>\S+)\))? "
    r"(?P<way><-|->) (?P<b>\S+)(?: \((?P<b2>\S+)\))?\s+(?P<levels>\S.*)$"
)
_ID = re.compile(r"^\s+id: (?P<id>[0-9a-f]+) creatorid: (?P<creator>[0-9a-f]+)")
_TIMES = re.compile(r"^\s+age (?P<age>[\d:]+), expires in (?P<left>[\d:]+)")
_NODE = re.compile(
    r"^(?P<client>\S+) -> (?P<to>\S+) \( states (?P<states>\d+), connections "
    r"(?P<connections>\d+), "
)
_ADDRESS = re.compile(r"^\s*[MADCXYZ ]?\s*(?P<not>!?)(?P<address>[0-9a-fA-F.:]+)$")
_KILLED = re.compile(r"^killed (\d+) (?:states|src nodes)", re.MULTILINE)
_STAMP = re.compile(r'label "director ([0-9a-f]{16})"')


@dataclass(frozen=True)
class State:
    """One state of pf.

    Attributes:
        proto: ``tcp``, ``udp``, ...
        way: ``in`` for ``<-``, ``out`` for ``->``, as seen from this host.
        left: address on the left, as it is on the far side of a translation.
        left_before: what ``left`` was before translation; the same when it was not.
        right: address on the right.
        levels: the two ends' states, or one word.
        id: 16 hex digits, or empty where they were not asked for.
        creator: 8 hex digits; pfsync leaves those of the host that made the state.
        age: seconds since it was made, where that was asked for.
        left_seconds: until it ends, if nothing more is heard; 0 if not asked for.
    """

    proto: str
    way: Literal["in", "out"]
    left: Address
    left_before: Address
    right: Address
    levels: tuple[str, ...]
    id: str = ""
    creator: str = ""
    age: int | None = None
    left_seconds: int = 0

    @property
    def closing(self) -> bool:
        """Whether both ends have said all they had to say."""
        return all(level in CLOSING for level in self.levels)

    @property
    def ends(self) -> tuple[Address, Address]:
        """Return (who opened it, whom it reached), translated."""
        return (self.right, self.left) if self.way == "in" else (self.left, self.right)


@dataclass(frozen=True)
class SourceNode:
    """What ``sticky-address`` remembers of one client.

    Attributes:
        client: IP address.
        to: IP address that its next connection will go to.
        states: how many states hold the node.
    """

    client: str
    to: str
    states: int


def end(text: str) -> Address:
    """Read ``192.0.2.1:80``, ``2001:db8::1[80]`` or an address alone.

    Raises:
        ValueError: it is none of these.
    """
    if text.endswith("]"):
        ip, _, port = text[:-1].partition("[")
    elif text.count(":") == 1:
        ip, _, port = text.partition(":")
    else:
        ip, port = text, "0"
    return Address(ip, int(port))


def states(text: str) -> list[State]:
    """Read ``pfctl -ss`` with any number of ``-v``."""
    found: list[State] = []
    for line in text.splitlines():
        match = _STATE.match(line)
        if match is not None:
            found.append(_state(match))
            continue
        ids, times = _ID.match(line), _TIMES.match(line)
        if ids is not None and found:
            creator = ids["creator"]
            found.append(replace(found.pop(), id=ids["id"], creator=creator))
        elif times is not None and found:
            age, left = seconds(times["age"]), seconds(times["left"])
            found.append(replace(found.pop(), age=age, left_seconds=left))
    return found


def _state(match: re.Match[str]) -> State:
    left = end(match["a"])
    return State(
        match["proto"],
        "in" if match["way"] == "<-" else "out",
        left,
        end(match["a2"]) if match["a2"] else left,
        end(match["b"]),
        tuple(match["levels"].split(":")),
    )


def seconds(text: str) -> int:
    """Read pf's ``hours:minutes:seconds``; hours may have any number of digits."""
    total = 0
    for word in text.split(":"):
        total = total * 60 + int(word)
    return total


def through(found: Iterable[State], virtual: Address) -> list[Flow]:
    """Return the open flows through a virtual address.

    On the clients' side of this host a redirected flow is ``backend (virtual) <-
    client``; its other state, towards the backend, does not name the virtual address.
    """
    return [
        Flow(
            client=replace(state.right, proto=virtual.proto),
            virtual=virtual,
            backend=state.left,
            state=":".join(state.levels),
            seconds=state.left_seconds,
            age=state.age,
        )
        for state in found
        if state.way == "in"
        and state.proto == virtual.proto
        and state.left_before != state.left
        and _is(state.left_before, virtual)
        and not state.closing
    ]


def flows_of(found: Iterable[State], backend: Address) -> set[Address]:
    """Return the clients that have an open flow with a backend.

    A redirected flow has two states, one on each side of this host; it is one flow.
    A backend with port 0 takes flows on any port.
    """
    clients: set[Address] = set()
    for state in found:
        if state.closing:
            continue
        for near, far in (state.ends, state.ends[::-1]):
            if _is(far, backend):
                clients.add(near)
        if _is(state.left_before, backend):
            clients.add(state.right)
    return clients


def touching(found: Iterable[State], backend: Address) -> list[State]:
    """Return every state that names a backend, on either side."""
    return [
        state
        for state in found
        if any(_is(e, backend) for e in (*state.ends, state.left_before))
    ]


def _is(address: Address, backend: Address) -> bool:
    return address.ip == backend.ip and backend.port in (0, address.port)


def source_nodes(text: str) -> list[SourceNode]:
    """Read ``pfctl -sS``; further lines of ``-v`` are passed over."""
    return [
        SourceNode(match["client"], match["to"], int(match["states"]))
        for line in text.splitlines()
        if (match := _NODE.match(line))
    ]


def members(text: str) -> frozenset[str]:
    """Read ``pfctl -t T -T show``; counters of ``-v`` are passed over."""
    return frozenset(
        match["address"]
        for line in text.splitlines()
        if (match := _ADDRESS.match(line)) and not match["not"]
    )


def killed(text: str) -> int | None:
    """Read how many states or source nodes ``-k`` or ``-K`` took; None if unsaid."""
    match = _KILLED.search(text)
    return int(match[1]) if match else None


def fingerprint(rules: str) -> str:
    """Return the stamp that our rules carry, or an empty string."""
    match = _STAMP.search(rules)
    return match[1] if match else ""


def count_rules(text: str) -> int:
    """Return how many rules ``pfctl -sr`` or ``-sn`` lists; counters are no rules."""
    return sum(1 for line in text.splitlines() if line and not line[0].isspace())


def has_anchor(text: str, kind: str, anchor: str) -> bool:
    """Return whether a main ruleset calls our anchor.

    Args:
        text: what ``pfctl -sn`` or ``-sr`` printed.
        kind: ``nat-anchor``, ``rdr-anchor`` or ``anchor``.
        anchor: its name; a line for ``NAME/*`` calls only what lies below it.
    """
    wanted = re.compile(rf'^{kind} "{re.escape(anchor)}"(?: |$)', re.MULTILINE)
    return bool(wanted.search(text))


def enabled(info: str) -> bool | None:
    """Read ``pfctl -s info``; None when it does not say."""
    match = re.search(r"^Status: (Enabled|Disabled)", info, re.MULTILINE)
    return None if match is None else match[1] == "Enabled"
