"""What Prometheus may fetch, computed from the status when it asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from standfast.director.election.model import Role
from standfast.director.model import BackendState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from standfast.director.apply import Daemon


def exposition(daemon: Daemon) -> str:
    """Return the metrics in Prometheus' text format."""
    made = _Metrics()
    seen = daemon.status()
    made.steering(seen)
    made.election(seen["election"], seen["rank"])
    if seen["peer"] is not None:
        made.peer(seen["peer"])
    late = sorted(daemon.late)
    worst = late[int(len(late) * 0.99)] if late else 0.0
    made.gauge("probe_late_seconds", "how late probes start, 99 of 100").set(worst)
    return generate_latest(made.registry).decode()


class _Metrics:
    """Metrics of one moment; their values come from a status."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """Return a gauge of ours."""
        full = f"standfast_director_{name}"
        return Gauge(full, text, labels, registry=self.registry)

    def count(self, name: str, text: str, value: float) -> None:
        """Set a counter."""
        Counter(f"standfast_director_{name}", text, registry=self.registry).inc(value)

    def counts(self, name: str, text: str, by_reason: Mapping[str, int]) -> None:
        """Set a counter for each reason."""
        full = f"standfast_director_{name}"
        counter = Counter(full, text, ("reason",), registry=self.registry)
        for reason, value in by_reason.items():
            counter.labels(reason).inc(value)

    def steering(self, seen: Mapping[str, Any]) -> None:
        """Add services, backends and the data plane."""
        state = self.gauge("backend_state", "1 for the state it is in", *_STATE)
        held = self.gauge("connections", "established, when last counted", "backend")
        for row in seen["backends"]:
            for word in BackendState:
                state.labels(row["name"], word.value).set(row["state"] == word.value)
            if row["connections"] is not None:
                held.labels(row["name"]).set(row["connections"])
        slots = self.gauge("slots", "hash slots", "service", "backend")
        failed = self.gauge("fail_open", "1 while all have failed and serve", "service")
        for row in seen["services"]:
            failed.labels(row["name"]).set(row["open"])
            for name, count in row["slots"].items():
                slots.labels(row["name"], name).set(count)
        trouble = self.gauge("trouble", "1 while the data plane refuses")
        trouble.set(bool(seen["trouble"]))
        self.count("probes", "probes so far", seen["probes"])
        changes = "changes of the data plane so far"
        self.count("transactions", changes, seen["transactions"])

    def election(self, row: Mapping[str, Any], rank: int) -> None:
        """Add who holds the addresses, and what was not believed."""
        self.gauge("rank", "0 unfit to 254").set(rank)
        holds = row["role"] == Role.MASTER.value
        self.gauge("master", "1 while it holds the addresses").set(holds)
        role = self.gauge("role", "1 for the role it has", "role")
        for word in Role:
            role.labels(word.value).set(row["role"] == word.value)
        since = "when the role last changed, since the Unix epoch"
        self.gauge("role_since_seconds", since).set(row["since"])
        self.count("takeovers", "how often it became the holder", row["takeovers"])
        willing = self.gauge("standby", "1 while an order keeps it from the addresses")
        willing.set(not row["willing"])
        unproved = "1 while no connection through the addresses was answered"
        self.gauge("unproved", unproved).set(bool(row["unproved"]))
        problem = "1 while the election does not do what it was told"
        self.gauge("election_problem", problem).set(bool(row["problem"]))
        self.counts("adverts_refused", "adverts not believed", row["refused"])

    def peer(self, row: Mapping[str, Any]) -> None:
        """Add the other director."""
        self.gauge("peer_up", "1 while the peer is heard").set(row["here"])
        self.gauge("peer_rank", "what the peer says of itself").set(row["rank"])
        self.gauge("pins", "flows that are pinned here").set(row["pins"])
        differs = self.gauge("peer_differs", "1 where the peer differs", "what")
        for what in ("configuration", "table"):
            differs.labels(what).set(row["differs"] == what)
        refused = "datagrams of the peer channel that were not believed"
        self.counts("peer_refused", refused, row["refused_by"])


_STATE = ("backend", "state")
