"""What an upgrade watches, and when it has seen too much; pure.

HAProxy counts its own errors (management guide, 9.1): ``econ`` connections to a
server that failed, ``eresp`` answers that broke off, ``hrsp_5xx`` answers of 500 and
more, ``dreq`` and ``dresp`` what it denied, ``wretr`` tries repeated. A witness counts
what a client sees: refused, cut in the middle of an answer, closed before it, bad
answers. Counters begin again with a new process, so only rises within one count.
"""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

QUESTION = b"show info;show stat -1 3 -1\n"  # 3: FRONTEND and BACKEND rows
# Of each kind of row what it alone knows: answers of a BACKEND pass its FRONTEND.
OF_FRONTEND = ("hrsp_5xx", "dreq", "dresp")
OF_BACKEND = ("econ", "eresp", "wretr")
SEEN = ("refused", "cut", "early", "bad")
# Three standard deviations of what comes by itself (a Poisson process).
SIGMAS = 3.0


@dataclass(frozen=True)
class Reading:
    """HAProxy's own counters at one moment.

    Attributes:
        pid: of the process that counts.
        errors: by name.
    """

    pid: int
    errors: Mapping[str, int]


def read_counters(text: str) -> Reading | None:
    """Read the answer to QUESTION; None when it is no such answer."""
    pid = re.search(r"^Pid: (\d+)$", text, re.MULTILINE)
    at = text.find("# pxname,")
    if pid is None or at < 0:
        return None
    errors = dict.fromkeys((*OF_FRONTEND, *OF_BACKEND), 0)
    for row in csv.DictReader(text[at + 2 :].splitlines()):
        names = OF_FRONTEND if row.get("svname") == "FRONTEND" else OF_BACKEND
        if row.get("svname") in {"FRONTEND", "BACKEND"}:
            for name in names:
                errors[name] += int(row.get(name) or 0)
    return Reading(int(pid[1]), errors)


@dataclass(frozen=True)
class Tally:
    """Errors so far, of all nodes and of the witness.

    Attributes:
        last: the last reading of each node.
        errors: sums of the rises, by node and by name of the counter.
    """

    last: Mapping[str, Reading] = field(default_factory=dict)
    errors: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def add(self, node: str, reading: Reading | None) -> Tally:
        """Return the tally with one more reading; None is a node that was silent."""
        if reading is None:
            return self
        before = self.last.get(node)
        same = before is not None and before.pid == reading.pid
        sums = dict(self.errors.get(node, {}))
        for name, count in reading.errors.items():
            # A new process has counted since it began: all of that is a rise. What
            # the first reading of all shows, happened before us.
            base = before.errors.get(name, 0) if same and before else 0
            rise = count - base if before is not None else 0
            if rise > 0:
                sums[name] = sums.get(name, 0) + rise
        return replace(
            self,
            last={**self.last, node: reading},
            errors={**self.errors, node: sums},
        )

    def total(self) -> int:
        """Return all errors of all nodes; repeated tries are none."""
        return sum(
            count
            for sums in self.errors.values()
            for name, count in sums.items()
            if name != "wretr"
        )


def too_many(seen: float, seconds: float, usual: float, allowed: int) -> bool:
    """Return whether errors have risen.

    Args:
        seen: errors in this time.
        seconds: how long it was.
        usual: errors a second before anything was touched.
        allowed: that are forgiven besides.
    """
    expected = usual * seconds
    return seen > allowed + expected + SIGMAS * math.sqrt(expected)


def words(counts: Mapping[str, int]) -> str:
    """Return counts as a phrase, without those that are 0."""
    found = [f"{count} {name}" for name, count in counts.items() if count]
    return ", ".join(found) or "no errors"


def difference(
    after: Mapping[str, int], before: Mapping[str, int], names: Iterable[str] = SEEN
) -> dict[str, int]:
    """Return by how much each count has risen."""
    return {name: after.get(name, 0) - before.get(name, 0) for name in names}
