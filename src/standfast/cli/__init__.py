"""The command line: picks the area, maps errors to exit statuses."""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module

from standfast.errors import StandfastError

AREAS = ("backup", "director", "tune")


def main(argv: list[str]) -> int:
    """Run a command and return its exit status."""
    parser = argparse.ArgumentParser(prog="standfast")
    areas = parser.add_subparsers(dest="area", required=True)
    for name in AREAS:
        area = areas.add_parser(name)
        if argv[:1] == [name]:
            import_module(f"standfast.cli.{name}").add_parsers(area)
    args = parser.parse_args(argv)
    try:
        status: int = args.run(args)
    except StandfastError as error:
        if getattr(args, "json", False):
            print(json.dumps({"error": {"message": error.message, "hint": error.hint}}))  # noqa: T201
        else:
            print(f"standfast: error: {error.message}", file=sys.stderr)  # noqa: T201
            if error.hint:
                print(f"standfast: hint: {error.hint}", file=sys.stderr)  # noqa: T201
        return error.status
    return status


def run() -> None:
    """Entry point of the installed script."""
    sys.exit(main(sys.argv[1:]))
