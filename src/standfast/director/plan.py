"""Deciding: a state, an event, and out come a new state, changes and one sentence.

Pure. Rules, in this order: what an operator said counts first (drained, disabled);
unknown is not down (what the kernel already has, stays until results speak against
it); a cap bounds how many may be out at once because of probes; when all have
failed, all serve (fail open), because then the probe or the director is the
likelier culprit, and a wrong try costs no more than a certain refusal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from standfast.director.health import Health, Outcome, Pace, Verdict, fold
from standfast.director.leaving import Former, left
from standfast.director.maglev import table_for
from standfast.director.model import BackendState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from standfast.director.model import Backend, Service, Table

Order = Literal["drain", "undrain", "disable"]
ORDER_STEP = 0.001  # seconds between two orders that follow each other


@dataclass(frozen=True)
class Policy:
    """What bounds the decisions.

    Attributes:
        max_out: share of a service's backends that probes may take out at once.
        fail_open: whether all serve when all have failed.
        of_service: what bounds one service alone, by its name.
    """

    max_out: float = 0.7
    fail_open: bool = True
    of_service: Mapping[str, Policy] = field(default_factory=dict)

    def of(self, service: str) -> Policy:
        """Return what bounds a service."""
        return self.of_service.get(service, self)


@dataclass(frozen=True)
class Probed:
    """A probe of a backend has ended."""

    backend: str
    outcome: Outcome
    at: float


@dataclass(frozen=True)
class Ordered:
    """An operator wants something of a backend.

    Attributes:
        backend: its name.
        order: what is wanted.
        at: when.
        force: ``force`` lets the last server of a service go.
    """

    backend: str
    order: Order
    at: float
    force: Literal["", "force"] = ""


@dataclass(frozen=True)
class Told:
    """An order that was given elsewhere or earlier: to the peer, or to our last run.

    The later one counts. Attributes:
        backend: its name.
        admin: UP, DRAINING or DISABLED.
        at: when the order was given; see ``next_order_time``.
        by: who says so, for the sentence.
    """

    backend: str
    admin: BackendState
    at: float
    by: str


@dataclass(frozen=True)
class Inherited:
    """What the kernel held at our start: the serving backends of each service."""

    members: Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Configured:
    """The configuration was read anew."""

    services: tuple[Service, ...]
    backends: Mapping[str, Backend]
    paces: Mapping[str, Pace]
    policy: Policy
    at: float


@dataclass(frozen=True)
class Left:
    """A backend that is no longer configured has no connections any more."""

    backend: str


@dataclass(frozen=True)
class Remembered:
    """Backends that were leaving when the last run ended."""

    leaving: Mapping[str, Former]


Event = Left | Remembered | Probed | Ordered | Told | Inherited | Configured


@dataclass(frozen=True)
class Entry:
    """What is held of one backend.

    Attributes:
        health: what its probes say.
        admin: UP when nobody ordered anything, else DRAINING or DISABLED.
        since: when the last order was given; 0 if there never was one.
        share: per cent of its weight, as its agent asks; 0 takes it out.
        drain: whether its agent asks for a drain.
    """

    health: Health = field(default_factory=Health)
    admin: BackendState = BackendState.UP
    since: float = 0.0
    share: int = 100
    drain: bool = False


@dataclass(frozen=True)
class State:
    """Everything decisions depend on; see the events for the fields."""

    services: tuple[Service, ...] = ()
    backends: Mapping[str, Backend] = field(default_factory=dict)
    paces: Mapping[str, Pace] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    entries: Mapping[str, Entry] = field(default_factory=dict)
    inherited: Mapping[str, frozenset[str]] = field(default_factory=dict)
    leaving: Mapping[str, Former] = field(default_factory=dict)


@dataclass(frozen=True)
class Shift:
    """A service's serving backends have changed, or their weights."""

    service: str
    before: frozenset[str]
    after: frozenset[str]


@dataclass(frozen=True)
class Step:
    """What an event led to.

    Attributes:
        state: the new state.
        changes: services whose tables are new.
        sentence: what was decided and why; empty when there is nothing to tell.
        refused: whether an order was refused.
    """

    state: State
    changes: tuple[Shift, ...] = ()
    sentence: str = ""
    refused: bool = False


def step(state: State, event: Event) -> Step:
    """Return what an event leads to."""
    if isinstance(event, Probed):
        return _probed(state, event)
    if isinstance(event, Left | Remembered):
        return _seen_off(state, event)
    if isinstance(event, Ordered):
        return _ordered(state, event)
    if isinstance(event, Told):
        return _told(state, event)
    if isinstance(event, Inherited):
        return _moved(state, replace(state, inherited=dict(event.members)), "taken up")
    return _configured(state, event)


def _seen_off(state: State, event: Left | Remembered) -> Step:
    if isinstance(event, Left):
        rest = {n: f for n, f in state.leaving.items() if n != event.backend}
        return Step(replace(state, leaving=rest), (), f"{event.backend} has left")
    back = {n: f for n, f in event.leaving.items() if n not in state.backends}
    return Step(replace(state, leaving={**back, **state.leaving}))


def backend_state(state: State, name: str) -> BackendState:
    """Return one word for a backend: an order outweighs what probes say."""
    entry = state.entries[name]
    if entry.admin is not BackendState.UP:
        return entry.admin
    if entry.drain and entry.health.state is BackendState.UP:
        return BackendState.DRAINING
    return entry.health.state


def serving(state: State, service: Service) -> frozenset[str]:
    """Return the backends that get a service's new connections."""
    policy = state.policy.of(service.name)
    usable = [n for n in service.backends if not _withheld(state.entries[n])]
    held = state.inherited.get(service.name)
    good = frozenset(n for n in usable if _good(state.entries[n], n, held))
    bad = [n for n in usable if state.entries[n].health.state is BackendState.DOWN]
    if not good:
        # Whoever is not known to be down goes first; then, failing open, all.
        unsure = frozenset(n for n in usable if n not in bad)
        return unsure or (frozenset(bad) if policy.fail_open else frozenset())
    allowed = max(1, math.floor(policy.max_out * len(service.backends)))
    # Those that fell last stay: the first falls are the likeliest to be real.
    bad.sort(key=lambda n: (state.entries[n].health.since, n))
    return good | frozenset(bad[allowed:])


def tables(state: State) -> Table:
    """Return the slots of every service."""
    found: Table = {}
    for service in state.services:
        weights = tuple(
            (name, state.backends[name].weight * state.entries[name].share)
            for name in service.backends
        )
        found[service.name] = table_for(
            weights, serving(state, service), service.slots, service.seed
        )
    return found


def is_open(state: State, service: Service) -> bool:
    """Return whether a service runs on backends that all have failed."""
    members = serving(state, service)
    return bool(members) and all(
        state.entries[n].health.state is BackendState.DOWN for n in members
    )


def orders(state: State) -> tuple[Told, ...]:
    """Return the last order of every backend that ever had one."""
    return tuple(
        Told(name, entry.admin, entry.since, "")
        for name, entry in sorted(state.entries.items())
        if entry.since
    )


def next_order_time(state: State, backend: str, now: float) -> float:
    """Return the time of an order that is given now.

    Never before an order that is known already, however the clocks of the two
    directors differ: the last one that a person gives is the one that counts.
    """
    entry = state.entries.get(backend)
    return now if entry is None else max(now, entry.since + ORDER_STEP)


def _good(entry: Entry, name: str, held: frozenset[str] | None) -> bool:
    if entry.health.state is BackendState.UNKNOWN:
        return held is None or name in held
    return entry.health.state is BackendState.UP


def _withheld(entry: Entry) -> bool:
    return entry.admin is not BackendState.UP or entry.drain or entry.share <= 0


def _probed(state: State, event: Probed) -> Step:
    old = state.entries.get(event.backend)
    if old is None:  # a result that a reload has overtaken
        return Step(state)
    health = fold(old.health, event.outcome, event.at, state.paces[event.backend])
    share, drain = old.share, old.drain
    if event.outcome.verdict is Verdict.PASS:
        share, drain = event.outcome.share, event.outcome.drain
    if health is old.health and (share, drain) == (old.share, old.drain):
        return Step(state)
    entry = replace(old, health=health, share=share, drain=drain)
    if entry == old:
        return Step(state)
    new = _with(state, event.backend, entry)
    said = _health_words(event, old, entry)
    if not said or _serves_on(state, event.backend, old, entry):
        return Step(new, (), said)
    return _moved(state, new, said)


def _serves_on(state: State, name: str, old: Entry, new: Entry) -> bool:
    """Return whether an unknown backend that serves is only found to be well.

    At the start that comes once for every backend, and no table is worth computing.
    """
    return (
        (old.health.state, new.health.state) == (BackendState.UNKNOWN, BackendState.UP)
        and (old.share, old.drain) == (new.share, new.drain)
        and all(
            _good(old, name, state.inherited.get(service.name))
            for service in state.services
        )
    )


def _health_words(event: Probed, old: Entry, new: Entry) -> str:
    name, words = event.backend, event.outcome.text
    reason = f": {words}" if words else ""
    if new.health.state is not old.health.state:
        return f"{name} is {new.health.state.value}{reason}"
    if new.health.held and not old.health.held:
        return f"{name} answers, but fell too often of late and is held back"
    if new.drain != old.drain:
        return f"{name} asks {'for a drain' if new.drain else 'to serve again'}{reason}"
    if new.share != old.share:
        return f"{name} asks for {new.share} % of its weight"
    return ""


_ADMIN = {
    "drain": BackendState.DRAINING,
    "disable": BackendState.DISABLED,
    "undrain": BackendState.UP,
}

_FIRMNESS = {BackendState.UP: 0, BackendState.DRAINING: 1, BackendState.DISABLED: 2}


def _ordered(state: State, event: Ordered) -> Step:
    old = state.entries.get(event.backend)
    if old is None:
        return Step(state, (), f"refused: there is no backend {event.backend}", True)
    admin = _ADMIN[event.order]
    words = _ADMIN_WORDS[admin]
    if old.admin is admin:
        return Step(state, (), f"{event.backend} {words} already")
    new = _with(state, event.backend, replace(old, admin=admin, since=event.at))
    bare = _bared(state, new)
    if bare and event.force != "force":
        said = f"refused: {event.backend} is the last that serves {bare}"
        return Step(state, (), said, True)
    return _moved(state, new, f"{event.backend} {words}")


_ADMIN_WORDS = {
    BackendState.DRAINING: "drains: no new connections",
    BackendState.DISABLED: "is disabled",
    BackendState.UP: "may serve again",
}


def _told(state: State, event: Told) -> Step:
    old = state.entries.get(event.backend)
    if old is None or event.admin not in _FIRMNESS:
        return Step(state)
    # Of two orders in one moment the one that takes more out counts.
    theirs = (event.at, _FIRMNESS[event.admin])
    if theirs <= (old.since, _FIRMNESS[old.admin]):
        return Step(state)
    new = _with(state, event.backend, replace(old, admin=event.admin, since=event.at))
    if old.admin is event.admin:
        return Step(new)
    return _moved(
        state, new, f"{event.backend} {_ADMIN_WORDS[event.admin]} ({event.by})"
    )


def _bared(state: State, new: State) -> str:
    for service in state.services:
        if not serving(state, service):
            continue
        left = serving(new, service)
        if not left or (is_open(new, service) and not is_open(state, service)):
            return service.name
    return ""


def _configured(state: State, event: Configured) -> Step:
    entries = {n: state.entries.get(n, Entry()) for n in event.backends}
    # A backend that is new to a running service must rise before it serves.
    inherited = dict(state.inherited)
    for service in state.services:
        inherited.setdefault(service.name, frozenset(service.backends))
    known = {service.name for service in event.services}
    new = State(
        event.services,
        event.backends,
        event.paces,
        event.policy,
        entries,
        {name: held for name, held in inherited.items() if name in known},
        _leaving(state, event),
    )
    gone = sorted(new.leaving.keys() - state.leaving.keys())
    words = f"; {', '.join(gone)} leaves, its connections go on" if gone else ""
    return _moved(state, new, f"the configuration was read{words}")


def _leaving(state: State, event: Configured) -> dict[str, Former]:
    known = {service.name for service in event.services}
    found = {
        **state.leaving,
        **left(state.services, state.backends, event.backends, event.at),
    }
    return {
        name: former
        for name, former in found.items()
        if name not in event.backends and former.services & known
    }


def _with(state: State, name: str, entry: Entry) -> State:
    return replace(state, entries={**state.entries, name: entry})


def _moved(state: State, new: State, said: str) -> Step:
    """Return a step with the services whose slots differ, and the words for them."""
    before, after = tables(state), tables(new)
    olds = {service.name: service for service in state.services}
    shifts = []
    for service in new.services:
        if before.get(service.name) == after[service.name]:
            continue
        old = olds.get(service.name)
        held = serving(state, old) if old is not None else frozenset()
        shifts.append(Shift(service.name, held, serving(new, service)))
    words = [said, *(_shift_words(new, shift) for shift in shifts)]
    if not shifts and new.services:
        words += _kept_words(new)
    return Step(new, tuple(shifts), "; ".join(words))


def _shift_words(new: State, shift: Shift) -> str:
    names = ", ".join(sorted(shift.after)) or "nobody"
    service = next(s for s in new.services if s.name == shift.service)
    if is_open(new, service):
        return f"all of {shift.service} have failed, so all serve it: {names}"
    return f"{shift.service} is served by {names}"


def _kept_words(new: State) -> list[str]:
    """Say where the cap keeps a backend that has failed."""
    found = []
    for service in new.services:
        kept = [
            name
            for name in sorted(serving(new, service))
            if new.entries[name].health.state is BackendState.DOWN
        ]
        if kept and not is_open(new, service):
            found.append(
                f"{', '.join(kept)} stays in {service.name}: no more may be out at once"
            )
    return found
