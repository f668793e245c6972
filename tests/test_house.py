"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from commands import COMMANDS, listed
from conftest import ROOT, Standfast

if TYPE_CHECKING:
    from collections.abc import Iterator


from standfast import __version__

SOURCE = ROOT / "src" / "standfast"


def test_layers() -> None:
    """No module imports what its layer may not."""
    program = Path(sys.executable).with_name("lint-imports")
    found = str(program) if program.exists() else shutil.which("lint-imports")
    if found is None:
        pytest.skip("import-linter is not installed")
    done = subprocess.run(
        [found, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert 0 == done.returncode, done.stdout.decode()
    assert b"0 broken" in done.stdout


def documents() -> str:
    """Return all that the project says of itself to a user."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return "\n".join(path.read_text() for path in paths if path.exists())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    """README or docs say something of each command."""
    assert f"backup {command}" in documents()


def test_the_list_of_commands_is_whole(standfast: Standfast) -> None:
    """No command can be added without the test above."""
    names = {command.split()[0] for command in COMMANDS}
    assert names == set(listed(standfast("backup", "--help").out))


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def test_every_module_says_what_it_is() -> None:
    """A module without a docstring is unfinished."""
    for path in modules():
        assert ast.get_docstring(ast.parse(path.read_text())), path


def library_nodes(path: Path) -> Iterator[ast.AST]:
    """Yield the nodes that are there when a module is imported."""
    for statement in ast.parse(path.read_text()).body:
        if not ast.unparse(statement).startswith("if __name__ == '__main__':"):
            yield from ast.walk(statement)


def test_only_the_edge_exits_and_prints() -> None:
    """Library code calls neither print nor exit; only ``cli`` knows argv.

    A module that is started as a program of its own may read its argument, in the
    block that runs only then.
    """
    for path in modules():
        if path.is_relative_to(SOURCE / "cli") or path.name == "__main__.py":
            continue
        for node in library_nodes(path):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"print", "exit", "sys.exit", "os._exit"}, path
            if isinstance(node, ast.Attribute):
                assert "sys.argv" != ast.unparse(node), path


def test_no_module_has_a_name_that_says_nothing() -> None:
    """No utils, helpers, managers or commons."""
    bad = {"util", "utils", "helper", "helpers", "common", "manager", "misc", "base"}
    for path in modules():
        assert path.stem not in bad, path
        assert path.parent.name not in bad, path


def test_no_patches_in_tests() -> None:
    """Fakes are handed in; nothing is swapped out behind the product's back."""
    words = [
        a + b for a, b in (("mock", ".patch"), ("monkey", "patch"), ("Magic", "Mock"))
    ]
    for path in sorted((ROOT / "tests").rglob("*.py")):
        text = path.read_text()
        for word in words:
            assert word not in text, path


def test_the_version(standfast: Standfast) -> None:
    """``--version`` prints the version, alone on its line."""
    assert f"{__version__}\n" == standfast("--version").out
