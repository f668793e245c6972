"""The director's lab as a fixture: real HAProxy and kernels, in namespaces."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest
from conftest import need

from standfast.clock import SystemClock
from standfast.director.lab.rig import NEEDS, Rig
from standfast.host.local import LocalHost

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def built_lab(*programs: str) -> Iterator[Rig]:
    """Build the lab without a director; remove all of it at the end.

    Args:
        programs: what is needed besides the lab's own.
    """
    need(*NEEDS, *programs)
    if os.geteuid() != 0:
        pytest.skip("needs root, for network namespaces")
    host = LocalHost()
    rig = Rig(host, SystemClock())
    try:
        rig.build()
        yield rig
    finally:
        rig.close()
        host.close()


@contextlib.contextmanager
def lab_of_two(*programs: str, more: str = "") -> Iterator[Rig]:
    """Build the lab with directors a, the master, and b; ``more`` ends their files."""
    with built_lab(*programs) as rig:
        for name in ("a", "b"):
            rig.start_director(name, election="vrrp", more=more)
            rig.wait_up(name)
        rig.wait(lambda: rig.role("a") == "master", "a does not take the addresses")
        yield rig
