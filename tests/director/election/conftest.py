"""The segment that the live tests of the election run on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from conftest import need
from director.election.rig import Net

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def net() -> Iterator[Net]:
    need("ip")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    net = Net()
    try:
        yield net
    finally:
        net.close()
