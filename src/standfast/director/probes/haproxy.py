"""Asking HAProxy about itself: runtime socket, statistics page, agent-check word.

An HAProxy that is up with all its BACKEND rows DOWN serves nothing, and counts as
down; one that says that it is stopping asks for a drain. Formats: HAProxy's
management guide, 9.1 (CSV) and 9.3 (socket); configuration manual, agent-check.
"""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from standfast.director import upgrading
from standfast.director.model import parse_address
from standfast.director.probes import failed, passed
from standfast.director.probes.exchange import Exchange

if TYPE_CHECKING:
    from standfast.director.health import Outcome
    from standfast.director.probes.exchange import Where
    from standfast.director.probes.http import HttpProbe

AGENT_LIMIT = 1024
QUESTION = b"show info;show stat -1 2 -1\n"  # 2: BACKEND rows only


class SocketProbe(Exchange):
    """Asks the runtime socket, a path or address:port."""

    def __init__(self, where: str, rows: tuple[str, ...]) -> None:
        super().__init__(socket_place(where), QUESTION)
        self._rows = rows

    def judge(self, answer: bytes) -> Outcome:
        """See Exchange."""
        text = answer.decode(errors="replace")
        outcome = judge_rows(text, self._rows)
        if re.search(r"^Stopping: 1$", text, re.MULTILINE):
            return replace(outcome, text="it is stopping", drain=True)
        return outcome


class CounterProbe(Exchange):
    """Fetches HAProxy's own counters; what they say is not judged."""

    def __init__(self, where: str) -> None:
        super().__init__(socket_place(where), upgrading.QUESTION)

    def judge(self, answer: bytes) -> Outcome:
        """See Exchange; the outcome's text is the answer."""
        return passed(answer.decode(errors="replace"))


class PageProbe(Exchange):
    """Asks the statistics page, whose path ends with ``;csv``."""

    def __init__(self, page: HttpProbe, rows: tuple[str, ...]) -> None:
        super().__init__(page.where, page.opening)
        self._page = page
        self._rows = rows

    def judge(self, answer: bytes) -> Outcome:
        """See Exchange."""
        outcome = self._page.judge(answer)
        if outcome.verdict.value != "pass":
            return outcome
        return judge_rows(answer.decode(errors="replace"), self._rows)


class AgentProbe(Exchange):
    """Reads agent-check words: up, ready, drain, maint, down, stopped, fail, N%."""

    def __init__(self, where: Where) -> None:
        super().__init__(where)

    def enough(self, held: bytes) -> bool:
        """See Exchange."""
        return len(held) >= AGENT_LIMIT

    def judge(self, answer: bytes) -> Outcome:
        """See Exchange."""
        return judge_words(answer.decode(errors="replace"))


def socket_place(text: str) -> Where | str:
    """Return a path as it is, and address:port as a pair.

    Raises:
        ValueError: it is neither.
    """
    if text.startswith(("/", ".")):
        return text
    address = parse_address(text)
    return (address.ip, address.port)


def judge_rows(text: str, rows: tuple[str, ...]) -> Outcome:
    """Judge BACKEND rows of ``show stat``: named ones must all be up, else any."""
    found = backend_rows(text)
    if not found:
        return failed("it shows no statistics")
    for name in rows:
        if name not in found:
            return failed(f"it has no backend {name}")
        if found[name] == "DOWN":
            return failed(f"its backend {name} is down")
    if all(status == "DOWN" for status in found.values()):
        return failed("all its backends are down")
    return passed("its backends are up")


def backend_rows(text: str) -> dict[str, str]:
    """Return the status of each BACKEND row of the CSV in a text."""
    at = text.find("# pxname,")
    if at < 0:
        return {}
    rows = csv.DictReader(text[at + 2 :].splitlines())
    return {
        row["pxname"]: row["status"]
        for row in rows
        if row.get("svname") == "BACKEND" and row.get("status")
    }


def judge_words(line: str) -> Outcome:
    """Judge what an agent has written."""
    words = re.split(r"[\s,]+", line.partition("\n")[0].partition("#")[0].strip())
    for word in words:
        if word in {"down", "stopped", "fail"}:
            return failed(f"its agent says {word}")
    outcome = passed(f"its agent says {' '.join(words)}".rstrip())
    for word in words:
        if word in {"drain", "maint"}:
            outcome = replace(outcome, drain=True)
        elif word[:-1].isdigit() and word.endswith("%"):
            outcome = replace(outcome, share=min(100, int(word[:-1])))
        elif word not in {"up", "ready"} and not word.startswith("maxconn:"):
            return failed("its agent says nothing that is known")
    return outcome
