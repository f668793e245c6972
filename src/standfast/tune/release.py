"""Release names, as `uname -r`, `zfs version` and people write them.

Pure. A name that says no number gives None: what is not known stays unknown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_BRANCH = re.compile(r"[-.]*([a-z]*)")
_NUMBERS = re.compile(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?")


@dataclass(frozen=True, order=True)
class Release:
    """A release by its numbers; ``branch`` is what followed, in lower case.

    A development branch sorts before the release it becomes: `13-CURRENT` has
    minor -1, so that "from 13.0 on" leaves it out. The branch of `9.x` is `x`.
    """

    major: int
    minor: int = 0
    patch: int = 0
    branch: str = ""

    def at_least(self, major: int, minor: int = 0, patch: int = 0) -> bool:
        """Return whether this is that release or a later one."""
        return (self.major, self.minor, self.patch) >= (major, minor, patch)

    def __str__(self) -> str:
        minor = "" if self.minor < 0 else f".{self.minor}"
        patch = f".{self.patch}" if self.patch else ""
        return f"{self.major}{minor}{patch}"


def parse_release(text: str) -> Release | None:
    """Return the release that a text names, or None.

    >>> parse_release("8.2-RELEASE-p3").minor
    2
    """
    match = _NUMBERS.search(text)
    if match is None:
        return None
    major, minor, patch = match.groups()
    branch = _BRANCH.match(text[match.end() :].lower())
    branch_name = branch.group(1) if branch else ""
    if minor is None:
        return Release(
            int(major), -1 if branch_name == "current" else 0, 0, branch_name
        )
    return Release(int(major), int(minor), int(patch or 0), branch_name)
