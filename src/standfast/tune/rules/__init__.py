"""One rule a file: where it comes from, for which releases, and how to rebuild it.

Each module has a `RULE` with its source and range, a docstring from which the rule
can be written again without looking at the code, and pure functions. Sources are
named by short tags; `DESIGN.md` says which repository and commit each is.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """What a rule is, where it comes from and for which releases it holds."""

    name: str
    source: str
    releases: str
