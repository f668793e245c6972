"""How well something is, as monitoring sees it: states, their order, exit statuses.

The statuses are those of the Monitoring Plugins: 0 ok, 1 warning, 2 critical,
3 unknown. Of several states the worst counts; not to know is worse than a warning.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Grade(StrEnum):
    """A state; see the module."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"

    @property
    def exit_status(self) -> int:
        """The exit status of a monitoring plugin in this state."""
        return [Grade.OK, Grade.WARNING, Grade.CRITICAL, Grade.UNKNOWN].index(self)

    @property
    def badness(self) -> int:
        """A number that is larger the worse it is."""
        return [Grade.OK, Grade.WARNING, Grade.UNKNOWN, Grade.CRITICAL].index(self)


def worst(grades: Iterable[Grade]) -> Grade:
    """Return the worst of some states; ok if there is none."""
    return max(grades, key=lambda grade: grade.badness, default=Grade.OK)
