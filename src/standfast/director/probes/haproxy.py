"""Asking HAProxy about itself: runtime socket, statistics page, agent-check word.

An HAProxy that is up with all its BACKEND rows DOWN serves nothing, and counts as
down; one that says that it is stopping asks for a drain. Formats: HAProxy's
management guide, 9.1 (CSV) and 9.3 (socket); configuration manual, agent-check.
"""

from __future__ import annotations

import asyncio
import csv
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from standfast.director.model import parse_address
from standfast.director.probes import failed, passed
from standfast.director.probes.tcp import Where, connect, read_to_end

if TYPE_CHECKING:
    from standfast.director.health import Outcome
    from standfast.director.probes.http import HttpProbe

QUESTION = b"show info;show stat -1 2 -1\n"  # 2: BACKEND rows only


class SocketProbe:
    """Asks the runtime socket, a path or address:port."""

    def __init__(self, where: str, rows: tuple[str, ...]) -> None:
        self._where = socket_place(where)
        self._rows = rows

    async def check(self) -> Outcome:
        """Ask once."""
        text = await runtime(self._where, QUESTION)
        outcome = judge_rows(text, self._rows)
        if re.search(r"^Stopping: 1$", text, re.MULTILINE):
            return replace(outcome, text="it is stopping", drain=True)
        return outcome


class PageProbe:
    """Asks the statistics page, whose path ends with ``;csv``."""

    def __init__(self, page: HttpProbe, rows: tuple[str, ...]) -> None:
        self._page = page
        self._rows = rows

    async def check(self) -> Outcome:
        """Ask once."""
        answer = await self._page.fetch()
        outcome = self._page.judge(answer)
        if outcome.verdict.value != "pass":
            return outcome
        return judge_rows(answer.decode(errors="replace"), self._rows)


class AgentProbe:
    """Reads agent-check words: up, ready, drain, maint, down, stopped, fail, N%."""

    def __init__(self, where: Where) -> None:
        self._where = where

    async def check(self) -> Outcome:
        """Ask once."""
        with await connect(self._where) as sock:
            line = await read_to_end(sock, 1024)
        return judge_words(line.decode(errors="replace"))


async def runtime(where: Where | str, question: bytes) -> str:
    """Put a question to a runtime socket and return the answer.

    Raises:
        OSError: the connection failed.
    """
    with await connect(where) as sock:
        await asyncio.get_running_loop().sock_sendall(sock, question)
        return (await read_to_end(sock)).decode(errors="replace")


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
