"""The status as Prometheus reads it, for node_exporter's textfile collector."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from standfast.errors import StandfastError

if TYPE_CHECKING:
    from standfast.backup.status import Status

ROW = ("job", "dataset", "vault")


def exposition(status: Status, now: float) -> str:
    """Return the metrics in Prometheus' text format."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"standfast_backup_{name}", text, labels, registry=registry)

    gauge("status_timestamp_seconds", "when this was written").set(now)
    states = gauge("state", "0 ok, 1 warning, 2 critical, 3 unknown", *ROW)
    of_rows = {
        "last_success_timestamp_seconds": gauge(
            "last_success_timestamp_seconds", "0 is never", *ROW
        ),
        "last_verified_timestamp_seconds": gauge(
            "last_verified_timestamp_seconds", "every byte; 0 is never", *ROW
        ),
        "last_restored_timestamp_seconds": gauge(
            "last_restored_timestamp_seconds", "proven restorable; 0 is never", *ROW
        ),
        "archives": gauge("archives", "whole ones in the vault", *ROW),
        "stored_bytes": gauge("stored_bytes", "in the vault", *ROW),
        "chain_length": gauge("chain_length", "archives a restore needs", *ROW),
    }
    for row in status.rows:
        labels = (row.job, row.dataset, row.place)
        states.labels(*labels).set(row.grade.exit_status)
        values = (
            row.success, row.verified, row.restored, row.archives, row.stored, row.chain
        )  # fmt: skip
        for metric, value in zip(of_rows.values(), values, strict=True):
            if value is not None:
                metric.labels(*labels).set(value)
    vaults = gauge("vault_state", "0 ok, 1 warning, 2 critical, 3 unknown", "vault")
    whole = gauge("vault_archives", "whole ones, of all machines", "vault")
    stored = gauge("vault_stored_bytes", "of all machines", "vault")
    for place in status.places:
        vaults.labels(place.place).set(place.grade.exit_status)
        if place.reached:
            whole.labels(place.place).set(place.archives)
            stored.labels(place.place).set(place.stored)
    return generate_latest(registry).decode()


def write_textfile(path: str, text: str) -> None:
    """Replace a file, whole or not at all; everybody may read it.

    Raises:
        StandfastError: it cannot be written.
    """
    place = Path(path)
    # The collector reads every *.prom there; this is none until it is complete.
    part = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        part.chmod(0o644)
        part.replace(place)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise StandfastError(f"cannot write {path}: {error.strerror}") from None
