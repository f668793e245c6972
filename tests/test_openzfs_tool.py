"""The runner of the tests of a modern OpenZFS, where the machine cannot run it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("ci", "status"), [("", 0), ("1", 1)])
def test_without_qemu(tmp_path: Path, ci: str, status: int) -> None:
    """It says what is missing; in CI that is a failure."""
    env = {"PATH": str(tmp_path), "HOME": str(tmp_path), "CI": ci}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "openzfs.py")],
        capture_output=True,
        text=True,
        env=os.environ | env,
        check=False,
        timeout=60,
    )
    assert status == done.returncode
    assert "not run: qemu-system-x86_64 is not installed" in done.stderr
