"""``python -m standfast``."""

import sys

from standfast.cli import main

sys.exit(main(sys.argv[1:]))
