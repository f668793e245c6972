"""Object storage: the store's suite on a real server, and what a server does to us."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from faults import DyingPace, FakeClock, raise_died, retrying
from objectstore import HttpLink, ObjectServer, in_environment, refusal

from standfast.backup.model import is_part
from standfast.backup.stores import Entry
from standfast.backup.stores.s3 import S3Store
from standfast.backup.stores.s3_address import parse_s3_address, with_options
from standfast.errors import AlreadyThereError, StoreError, UsageError
from standfast.pace import Unlimited
from standfast.testing.store import StoreSuite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from standfast.pace import Pace

pytestmark = pytest.mark.system

# Some day of the future, so that a real server takes it for one.
NOW = 4_000_000_000.0


@pytest.fixture
def server(s3_server: ObjectServer) -> Iterator[ObjectServer]:
    """The server, with credentials in the environment, as boto3 finds them."""
    with in_environment(s3_server.env()):
        yield s3_server


def store_at(server: ObjectServer, place: str, pace: Pace | None = None) -> S3Store:
    address = parse_s3_address(server.address(place))
    return S3Store(address, pace or Unlimited())


@dataclasses.dataclass
class Bucket:
    """A place in a bucket, reached by the store and behind its back."""

    server: ObjectServer
    bucket: str
    prefix: str
    store: S3Store

    def plant(self, name: str, kind: str, data: bytes = b"") -> None:
        """Put an object; what is no file elsewhere is an object as well here."""
        key = f"{self.prefix}/{name}" + ("/" if kind == "folder" else "")
        self.server.client().put_object(Bucket=self.bucket, Key=key, Body=data)

    def put_cut(self, name: str, data: bytes) -> None:
        pace = DyingPace(len(data), raise_died)
        store_at(self.server, f"{self.bucket}/{self.prefix}", pace).put(name, data)


class TestS3Store(StoreSuite):
    @pytest.fixture
    def place(
        self, server: ObjectServer, request: pytest.FixtureRequest
    ) -> Iterator[Bucket]:
        missing = "not_there" in request.node.name
        bucket = "no-such-bucket" if missing else "vaults"
        prefix = f"suite/it's {os.urandom(6).hex()} & more"
        store = store_at(server, f"{bucket}/{prefix}")
        yield Bucket(server, bucket, prefix, store)
        store.close()

    # There is nothing in a bucket but objects and what marks a folder.
    @pytest.mark.parametrize("kind", ["folder"])
    def test_put_replaces_nothing_foreign(self, place: Bucket, kind: str) -> None:  # type: ignore[override]
        super().test_put_replaces_nothing_foreign(place, kind)

    @pytest.mark.parametrize("kind", ["folder"])
    def test_only_files_are_objects(self, place: Bucket, kind: str) -> None:  # type: ignore[override]
        super().test_only_files_are_objects(place, kind)

    @pytest.mark.parametrize("kind", ["folder"])
    def test_ranges_of_files_only(self, place: Bucket, kind: str) -> None:  # type: ignore[override]
        super().test_ranges_of_files_only(place, kind)

    test_foreign_kinds_are_listed = None  # type: ignore[assignment]

    @pytest.mark.parametrize(
        "name", ["two words", " leading", "trailing ", "it's", "*", "-rf", "tab\tbed",
                 "folder/a -> b", "naïve ☃", "a+b", "a%2Bb", "q?x=y&z#"],
    )  # fmt: skip
    def test_foreign_names_are_listed(self, place: Bucket, name: str) -> None:  # type: ignore[override]
        super().test_foreign_names_are_listed(place, name)

    def test_a_folders_mark(self, place: Bucket) -> None:
        """An empty object that ends in a slash is a folder."""
        place.store.create()
        place.plant("folder", "folder")
        assert [Entry("folder", 0, "folder")] == place.store.entries()


def test_over_a_thousand_names(server: ObjectServer) -> None:
    """A listing comes in pages of 1,000; all of them are one listing."""
    store = store_at(server, "vaults/paging")
    store.create()
    names = [f"archives/{number % 7}/{number:08}" for number in range(1_300)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: store.put(name, b"x"), names))
    files = [entry for entry in store.entries() if entry.kind == "file"]
    assert sorted(names) == [entry.name for entry in files]
    store.make_stable("archives/3")
    store.delete_folder("archives/3")
    left = [entry.name for entry in store.entries() if entry.kind == "file"]
    assert sorted(n for n in names if "/3/" not in n) == left
    store.close()


def test_what_was_taken_and_is_not_there(server: ObjectServer) -> None:
    """A server that loses, or cuts, what it has acknowledged is not believed."""
    store = store_at(server, "vaults/losing")
    store.create()
    for name in ("archives/1/a", "archives/1/b"):
        store.put(name, b"12345")
    store.make_stable("archives/1")
    server.client().put_object(Bucket="vaults", Key="losing/archives/1/a", Body=b"1234")
    with pytest.raises(StoreError, match="does not list it whole"):
        store.make_stable("archives/1")
    store.delete("archives/1/a")
    store.make_stable("archives/1")
    server.client().delete_object(Bucket="vaults", Key="losing/archives/1/b")
    with pytest.raises(StoreError, match="archives/1/b"):
        store.make_stable("archives/1")


def test_the_server_checks_the_sum(server: ObjectServer) -> None:
    """What is altered on its way is refused by the server, and tried again."""
    client = server.client()
    hurt: list[int] = []

    def alter(request: Any, **_: Any) -> None:
        if not hurt and "conditionalprobe" not in request.url:
            hurt.append(1)
            request.data = request.body = b"altered"

    client.meta.events.register("before-send.s3.PutObject", alter)
    place = parse_s3_address(server.address("vaults/altered"))
    store = S3Store(place, Unlimited(), client=client)
    with pytest.raises(StoreError) as caught:
        store.put("object", b"as sent")
    assert caught.value.transient
    assert [] == server.keys("vaults", "altered/")
    told: list[str] = []
    hurt.clear()
    retrying(store, told).put("object", b"as sent")
    assert 1 == len(told)
    assert b"as sent" == store.get("object", 100)


@pytest.mark.parametrize("how", ["ignores", "refuses"])
def test_a_server_without_conditions(server: ObjectServer, how: str) -> None:
    """If-None-Match that does nothing is noticed, said once, and made up for."""
    told: list[str] = []
    client = server.client()

    def lose(request: Any, **_: Any) -> None:
        del request.headers["If-None-Match"]

    def answer(head: bytes) -> bytes | None:
        if b"if-none-match" in head.lower():
            return refusal("501 Not Implemented", "NotImplemented")
        return None

    link = HttpLink(server.port, answer)
    if how == "ignores":
        client.meta.events.register("before-sign.s3.PutObject", lose)
    else:
        client = server.client(link.port)
    place = parse_s3_address(server.address(f"vaults/{how}"))
    store = S3Store(place, Unlimited(), tell=told.append, client=client)
    store.create()
    store.put("folder/object", b"first")
    with pytest.raises(AlreadyThereError):
        store.put("folder/object", b"second")
    assert b"first" == store.get("folder/object", 100)
    assert 1 == len(told)
    assert "If-None-Match" in told[0]
    assert [f"{how}/folder/object"] == server.keys("vaults", f"{how}/")
    link.close()


def test_sums_that_are_not_the_objects(server: ObjectServer) -> None:
    """A sum of parts' sums is no object's SHA-256: such an object is read back."""
    client = server.client()
    words = {"Bucket": "vaults", "Key": "parts/object"}
    upload = client.create_multipart_upload(**words, ChecksumAlgorithm="SHA256")
    words["UploadId"] = upload["UploadId"]
    data = bytes(6 << 20)
    part = client.upload_part(
        **words, PartNumber=1, Body=data, ChecksumAlgorithm="SHA256"
    )
    known = {"PartNumber": 1, "ETag": part["ETag"]}
    known["ChecksumSHA256"] = part["ChecksumSHA256"]
    client.complete_multipart_upload(**words, MultipartUpload={"Parts": [known]})
    client.put_object(Bucket="vaults", Key="parts/plain", Body=b"no sum kept")
    store = store_at(server, "vaults/parts")
    expected = {
        "object": hashlib.sha256(data).hexdigest(),
        "plain": hashlib.sha256(b"no sum kept").hexdigest(),
    }
    assert expected == dict(store.digests(["object", "plain", "missing"]))


def test_uploads_that_others_left(server: ObjectServer) -> None:
    """A multipart upload that was never ended is a leftover, and can be removed."""
    client = server.client()
    store = store_at(server, "vaults/uploads")
    store.create()
    store.put("archives/1/a", b"data")
    for key in ("uploads/archives/1/b", "uploads/c"):
        client.create_multipart_upload(Bucket="vaults", Key=key)
    names = [entry.name for entry in store.entries() if entry.kind == "file"]
    left = [name for name in names if is_part(name)]
    assert 2 == len(left)
    assert {"archives/1", ""} == {name.rpartition("/")[0] for name in left}
    for name in left:
        store.delete(name)
    assert ["archives/1/a"] == [e.name for e in store.entries() if e.kind == "file"]
    found = client.list_multipart_uploads(Bucket="vaults", Prefix="uploads/")
    assert [] == found.get("Uploads", [])


def test_object_lock(server: ObjectServer) -> None:
    """What is stored under a lock can be deleted by nobody for so many days."""
    address = server.address("locked-vaults/a") + "&object-lock=2"
    store = S3Store(parse_s3_address(address), Unlimited(), clock=FakeClock(NOW))
    store.create()
    store.put("object", b"data")
    client = server.client()
    words = {"Bucket": "locked-vaults", "Prefix": "a/object"}
    (version,) = client.list_object_versions(**words)["Versions"]
    words = {"Bucket": "locked-vaults", "Key": "a/object"}
    kept = client.get_object_retention(**words)["Retention"]
    assert "COMPLIANCE" == kept["Mode"]
    assert NOW + 2 * 86_400 == kept["RetainUntilDate"].timestamp()
    words["VersionId"] = version["VersionId"]
    with pytest.raises(ClientError, match=r"AccessDenied|locked|WORM"):
        client.delete_object(**words)
    with pytest.raises(ClientError):
        client.delete_object(**words, BypassGovernanceRetention=True)
    assert b"data" == client.get_object(**words)["Body"].read()


def test_object_lock_needs_a_bucket_for_it(server: ObjectServer) -> None:
    """A bucket that was made without says so, and what to do."""
    address = server.address("vaults/unlocked") + "&object-lock=2"
    store = S3Store(parse_s3_address(address), Unlimited())
    store.create()
    with pytest.raises(StoreError, match="InvalidRequest") as caught:
        store.put("object", b"data")
    assert not caught.value.transient
    assert "object lock must be on" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("s3://", "not a place"),
        ("s3:///prefix", "not a place"),
        ("s3://b", "not a place"),
        ("s3://bucket/a/../b", "not a place"),
        ("s3://bucket/a//b", "not a place"),
        ("s3://bucket/a?region=x", "no option 'region'"),
        ("s3://bucket/a?endpoint=ftp://x", "not an endpoint"),
        ("s3://bucket/a?endpoint=https://", "not an endpoint"),
        ("s3://bucket/a?endpoint=https://x:y", "not an endpoint"),
        ("s3://bucket/a?endpoint=https://me:secret@x", "no credentials"),
        ("s3://bucket/a?object-lock=-1", "not a number of days"),
        ("s3://bucket/a?object-lock=99999", "not a number of days"),
    ],
)
def test_addresses_that_are_none(text: str, why: str) -> None:
    """Each mistake is named, and no secret repeated."""
    with pytest.raises(UsageError, match=why) as caught:
        parse_s3_address(text)
    assert "secret" not in caught.value.message


def test_addresses() -> None:
    """The flags and the long form of an address are the same thing."""
    whole = "s3://bucket/a/b?endpoint=https://x:9000&object-lock=7"
    assert whole == with_options("s3://bucket/a/b/", "https://x:9000/", "7")
    assert whole == with_options(whole, "", "")
    place = parse_s3_address(whole)
    assert ("bucket", "a/b", "https://x:9000", 7) == dataclasses.astuple(place)
    assert "s3://bucket/a/b?endpoint=https://x:9000" == place.text()
    assert "s3://bucket" == parse_s3_address("s3://bucket/").text()
    assert "a/b/name" == place.key("name")
    assert "/a/directory" == with_options("/a/directory", "", "")
    for words in (("/directory", "http://x", ""), ("ssh://h/p", "", "7")):
        with pytest.raises(UsageError, match="is for s3://"):
            with_options(*words)
    with pytest.raises(UsageError, match="two endpoints"):
        with_options(whole, "https://other", "")
