"""The commands of ``standfast backup``: one a line, so that lists meet in one place."""

from __future__ import annotations

import re

COMMANDS = (
    "audit",
    "cat",
    "check-config",
    "clean",
    "diff",
    "drill",
    "extract",
    "find",
    "import-legacy",
    "init",
    "kit",
    "list",
    "ls",
    "marks list",
    "marks release",
    "mount",
    "prune",
    "restore",
    "restore-legacy",
    "rewrap",
    "run",
    "send",
    "serve",
    "signer add",
    "signer list",
    "signer revoke",
    "status",
    "verify",
)
# Their exit statuses are a monitor's.
MONITORS = {"status"}


def listed(usage: str) -> list[str]:
    """Return the commands that an area's ``--help`` lists."""
    return re.findall(r"^    ([a-z][a-z-]*)(?:$|  )", usage, re.MULTILINE)
