"""What was hashed once is told again, and nothing else is."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from standfast.backup.opening import Recognised
from standfast.testing.store import MemoryStore


@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_swapped_object_is_not_recognised(data: bytes, draw: st.DataObject) -> None:
    """Whatever comes later, its digest is its own; only equal bytes are known."""
    store = MemoryStore("memory")
    store.create()
    store.put("a", data)
    recognised = Recognised()
    digests = dict(recognised.digests(store)(["a", "missing"]))
    assert {"a": hashlib.sha256(data).hexdigest()} == digests
    other = draw.draw(st.binary(max_size=300))
    for later in (data, other, data + b"\0", data[:-1]):
        expected = hashlib.sha256(later).hexdigest()
        assert expected == recognised.sha256("a", later)
        assert expected == recognised.sha256("unseen", later)
