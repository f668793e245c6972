"""``python -m standfast``."""

from standfast.cli import run

run()
