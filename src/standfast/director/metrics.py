"""What Prometheus may fetch, computed from the status when it asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from standfast.director.model import BackendState

if TYPE_CHECKING:
    from standfast.director.apply import Daemon


def exposition(daemon: Daemon) -> str:
    """Return the metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    seen = daemon.status()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"standfast_director_{name}", text, labels, registry=registry)

    state = gauge("backend_state", "1 for the state it is in", "backend", "state")
    held = gauge("connections", "established, when last counted", "backend")
    for row in seen["backends"]:
        for word in BackendState:
            state.labels(row["name"], word.value).set(row["state"] == word.value)
        if row["connections"] is not None:
            held.labels(row["name"]).set(row["connections"])
    slots = gauge("slots", "hash slots", "service", "backend")
    failed = gauge("fail_open", "1 while all have failed and serve", "service")
    for row in seen["services"]:
        failed.labels(row["name"]).set(row["open"])
        for name, count in row["slots"].items():
            slots.labels(row["name"], name).set(count)
    gauge("rank", "0 unfit to 254").set(seen["rank"])
    gauge("master", "1 while it holds the addresses").set(seen["role"] == "master")
    gauge("trouble", "1 while the data plane refuses").set(bool(seen["trouble"]))
    late = sorted(daemon.late)
    worst = late[int(len(late) * 0.99)] if late else 0.0
    gauge("probe_late_seconds", "how late probes start, 99 of 100").set(worst)
    for name, text, count in (
        ("probes", "probes so far", seen["probes"]),
        ("transactions", "changes of the data plane so far", seen["transactions"]),
    ):
        Counter(f"standfast_director_{name}", text, registry=registry).inc(count)
    return generate_latest(registry).decode()
