"""What several of the director's tests stand on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from director.router import Router, need_router

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Router]:
    need_router()
    one = Router(tmp_path, f"sfbgp{os.getpid()}")
    try:
        one.wire()
        one.bird()
        yield one
    finally:
        one.close()
