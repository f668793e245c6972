"""The official age test vectors (C2SP/CCTV), all of them.

They lie beside the checkout, in `shared/data/age-testkit`, one file a vector: lines
`key: value`, an empty line, then the age file.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from standfast.backup import age
from standfast.backup.age import AgeError, Identity
from standfast.backup.keyfiles import parse_identities
from standfast.backup.recipients import (
    HybridIdentity,
    PassphraseIdentity,
)
from standfast.errors import NoIdentityError, UsageError

FOLDER = Path(__file__).parents[2].parent / "shared" / "data" / "age-testkit"
NAMES = sorted(path.name for path in FOLDER.iterdir()) if FOLDER.is_dir() else []
STAGES = {
    "armor failure": "armor",
    "header failure": "header",
    "HMAC failure": "hmac",
    "payload failure": "payload",
}


@dataclass(frozen=True)
class Vector:
    expect: str
    payload: str | None
    identities: list[Identity]
    armored: bool
    data: bytes


def load(name: str) -> Vector:
    head, data = (FOLDER / name).read_bytes().split(b"\n\n", 1)
    pairs = [line.split(": ", 1) for line in head.decode().split("\n")]
    identities: list[Identity] = []
    for key, value in pairs:
        if key == "identity":
            identities += parse_identities(value.encode(), name, None)
        if key == "passphrase":
            identities.append(PassphraseIdentity(value))
    fields = {key: value for key, value in pairs if key != "identity"}
    if fields.get("compressed") == "zlib":
        data = zlib.decompress(data)
    return Vector(
        fields["expect"],
        fields.get("payload"),
        identities,
        fields.get("armored") == "yes",
        data,
    )


def skip_without_hybrid(identities: list[Identity]) -> None:
    for identity in identities:
        if isinstance(identity, HybridIdentity):
            try:
                identity.recipient.wrap(bytes(16))
            except UsageError as error:
                pytest.skip(error.message)


def stage_of(error: AgeError | NoIdentityError) -> str:
    return error.stage if isinstance(error, AgeError) else "no match"


def released(vector: Vector) -> tuple[bytes, str]:
    """Return what is released of a vector, and the stage it ends in."""
    out = bytearray()
    try:
        data = age.dearmor(vector.data) if vector.armored else vector.data
        for chunk in age.decrypt_chunks(data, vector.identities):
            out += chunk
    except (AgeError, NoIdentityError) as error:
        return bytes(out), stage_of(error)
    return bytes(out), "success"


def whole(vector: Vector) -> tuple[bytes, str]:
    """Return what `decrypt` gives for a vector, and the stage it ends in."""
    try:
        data = age.dearmor(vector.data) if vector.armored else vector.data
        return bytes(age.decrypt(data, vector.identities)), "success"
    except (AgeError, NoIdentityError) as error:
        return b"", stage_of(error)


def test_all_vectors_are_there() -> None:
    """A folder that lost some would make the others look like all."""
    if not NAMES:
        pytest.skip("no age-testkit beside the checkout")

    assert len(NAMES) == 143


@pytest.mark.parametrize("name", NAMES)
def test_vector_by_chunks(name: str) -> None:
    """The stage is the expected one, and what is released before is exact."""
    vector = load(name)
    skip_without_hybrid(vector.identities)

    out, stage = released(vector)

    assert stage == STAGES.get(vector.expect, vector.expect)
    if vector.payload is not None:
        assert hashlib.sha256(out).hexdigest() == vector.payload
    else:
        assert out == b""


@pytest.mark.parametrize("name", NAMES)
def test_vector_whole(name: str) -> None:
    """`decrypt` ends at the same stage, and gives all or nothing."""
    vector = load(name)
    skip_without_hybrid(vector.identities)

    out, stage = whole(vector)

    assert stage == STAGES.get(vector.expect, vector.expect)
    if stage == "success":
        assert hashlib.sha256(out).hexdigest() == vector.payload
    else:
        assert out == b""


@pytest.mark.parametrize("name", NAMES)
def test_armor_is_the_inverse_of_dearmor(name: str) -> None:
    """Every vector survives our own armor; armored ones are told apart."""
    vector = load(name)
    if vector.armored:
        begins = vector.data.lstrip().startswith(b"-----BEGIN AGE ENCRYPTED FILE-----")
        assert age.is_armored(vector.data) == begins
        return

    assert not age.is_armored(vector.data)
    assert age.dearmor(age.armor(vector.data)) == vector.data
