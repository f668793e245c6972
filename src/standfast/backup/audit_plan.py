"""Which challenges to spend, and what an audit can miss. Pure.

A challenge is a secret nonce and the SHA-256 that a host must answer with when it
hashes the nonce and one object together. It is spent when it has been told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.errors import UsageError

if TYPE_CHECKING:
    import random  # noqa: TID251 - the type of an argument
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True)
class Challenge:
    """What a host can be asked once.

    Attributes:
        archive: the archive's id.
        object: the object's name within it.
        nonce: 32 hex digits, random, told to nobody yet.
        sha256: of the nonce's text and the object's bytes, in hex.
    """

    archive: str
    object: str
    nonce: str
    sha256: str


def choose(
    challenges: Iterable[Challenge], count: int, chance: random.Random
) -> list[Challenge]:
    """Return ``count`` challenges at random, of as many archives as there are.

    A host that drops whole archives is caught soonest by asking each archive once
    before any is asked twice.
    """
    by_archive: dict[str, list[Challenge]] = {}
    for challenge in challenges:
        by_archive.setdefault(challenge.archive, []).append(challenge)
    for group in by_archive.values():
        chance.shuffle(group)
    chosen: list[Challenge] = []
    while by_archive and len(chosen) < count:
        archives = sorted(by_archive)
        chance.shuffle(archives)
        for archive in archives[: count - len(chosen)]:
            chosen.append(by_archive[archive].pop())
            if not by_archive[archive]:
                del by_archive[archive]
    return chosen


def miss_probability(loss: float, asked: int) -> float:
    """Return the probability that a loss goes unseen.

    Args:
        loss: the share of objects that are gone or altered, 0 to 1, each as likely as
            any other.
        asked: how many objects are asked for.

    Each asked object is a good one with probability 1 - loss, independently of the
    others, so all of them are with (1 - loss) ** asked. Drawn without repeats from
    few objects the true figure is smaller still (hypergeometric).
    """
    return float((1.0 - loss) ** asked)


def parse_loss(text: str) -> float:
    """Return a share for a percentage such as ``5`` or ``0.5%``.

    Raises:
        UsageError: it is none above 0 and up to 100.
    """
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = 0.0
    if not 0 < value <= 100:  # noqa: PLR2004 - percent; also refuses not-a-number
        raise UsageError(f"not a percentage: {text}")
    return value / 100


def probability_text(value: float) -> str:
    """Return a probability for a person: ``44 %``, ``0.0012 %``."""
    percent = value * 100
    return f"{percent:.0f} %" if percent >= 1 else f"{percent:.2g} %"


def audits(challenges: Sequence[Challenge], count: int) -> int:
    """Return how many audits of ``count`` objects are left."""
    return len(challenges) // count
