"""A vault in object storage, by boto3 (the extra ``[s3]``).

An object is one PUT with its SHA-256, which the server compares with what came, and
with ``If-None-Match: *``, so that it replaces nothing. Whether the server keeps that
promise is tried before the first put of a process. Segments are far below what one
PUT may carry (5 GiB), so there are no multipart uploads of ours; those that other
programs left below the prefix are listed as cut transfers, so that ``clean`` ends them.

boto3's own retries are off: ``retry`` does that for every store alike. Requests run
in daemon threads and are waited for, so that ``close`` can let go of a server that
does not answer.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from standfast.backup.model import PART_PREFIX
from standfast.backup.stores import Entry
from standfast.backup.stores.s3_wire import REQUESTS, Body, Calls, connect
from standfast.clock import SystemClock
from standfast.errors import (
    AlreadyThereError,
    NotFoundError,
    StandfastError,
    StoreError,
    TooLargeError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from standfast.backup.stores import Buffer
    from standfast.backup.stores.s3_address import S3Address
    from standfast.clock import Clock
    from standfast.pace import Pace

_T = TypeVar("_T")

LARGEST_OBJECT = 1 << 30
# 16 letters, as every temporary name has them: clean knows it.
LOCK_HINT = "object lock must be on when a bucket is made; `init` can make one"
PROBE = f"{PART_PREFIX}conditionalprobe"
_PROBE_BODY = b"is a name that is taken left alone?\n"


class S3Store:
    """Objects below a prefix of a bucket; see Store.

    Args:
        place: where.
        pace: holds uploads back.
        tell: is told what a person should know of this server.
        clock: says until when an object is locked.
        client: boto3's client for S3; by default made when it is first needed.
    """

    near = False
    # A HEAD returns the checksum that the server kept when it took the object.
    recorded = True

    def __init__(
        self,
        place: S3Address,
        pace: Pace,
        *,
        tell: Callable[[str], None] = lambda _: None,
        clock: Clock | None = None,
        client: Any = None,  # noqa: ANN401 - boto3 makes its classes at run time
    ) -> None:
        self.address = place.text()
        self._place = place
        self._pace = pace
        self._tell = tell
        self._clock = clock or SystemClock()
        self._client = client
        self._conditional: bool | None = None
        self._lock = threading.Lock()
        self._connecting = threading.Lock()
        self._put: dict[str, int] = {}
        self._half: dict[str, bytes | None] = {}
        self._calls = Calls(self.address)

    def create(self) -> None:
        """Make the bucket if there is none; its place in it must be empty."""
        try:
            present = self._ask(
                "list_objects_v2", "listing", Prefix=self._place.key(""), MaxKeys=1
            )
        except NotFoundError:
            self._make_bucket()
            present = {}
        if present.get("Contents"):
            raise AlreadyThereError(f"{self.address} is not empty")

    def put(self, name: str, data: Buffer) -> None:
        """Send an object with its SHA-256, if its name is free; see Store."""
        words: dict[str, Any] = {}
        if self._keeps_names():
            words["IfNoneMatch"] = "*"
        elif self._size(name) is not None:
            raise AlreadyThereError(f"{name} is there already")
        self._send(name, data, words)

    def replace(self, name: str, data: Buffer) -> None:
        """Send an object with its SHA-256, whatever has its name; see Store.

        Where the bucket keeps versions the old one stays behind the new one.
        """
        self._send(name, data, {})

    def _send(self, name: str, data: Buffer, words: dict[str, Any]) -> None:
        view = memoryview(data)
        digest = hashlib.sha256(view).digest()
        words["ContentLength"] = len(view)
        words["ChecksumSHA256"] = base64.b64encode(digest).decode()
        if self._place.lock_days:
            words |= self._retention()
        body = Body(view, self._pace, self._calls)
        try:
            answer = self._ask("put_object", name, Key=name, Body=body, **words)
        except StandfastError as error:
            if body.failure is not None:
                raise body.failure from None
            if self._place.lock_days and "InvalidRequest" in error.message:
                raise StoreError(
                    error.message, hint=LOCK_HINT, transient=False
                ) from None
            raise
        if (
            answer.get("ChecksumSHA256", words["ChecksumSHA256"])
            != (words["ChecksumSHA256"])
        ):
            raise StoreError(f"{name} reached {self.address} altered", transient=True)
        with self._lock:
            self._put[name] = len(view)

    def get(self, name: str, limit: int) -> bytes:
        """Fetch one object; see Store."""
        return self._fetch(name, limit, {})

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Fetch part of an object; see Store."""
        if length <= 0 and self._size(name) is not None:
            return b""
        words = {"Range": f"bytes={start}-{start + length - 1}"}
        try:
            return self._fetch(name, length, words)
        except _BeyondError:
            return b""

    def get_small(self, names: Sequence[str], limit: int) -> dict[str, bytes]:
        """Fetch many at once; see Store."""

        def one(name: str) -> bytes | None:
            with contextlib.suppress(NotFoundError, TooLargeError):
                return self.get(name, limit)
            return None

        with self._lock:
            found, self._half = self._half, {}
        try:
            for name, data in self._each(one, [n for n in names if n not in found]):
                found[name] = data
        except StoreError:
            # What has come need not come again when this is tried again.
            with self._lock:
                self._half = found
            raise
        return {n: d for n in names if (d := found.get(n)) is not None}

    def entries(self) -> list[Entry]:
        """List every key below the prefix, and uploads that were never ended."""
        found: dict[str, Entry] = {}
        for item in self._listed(""):
            entry = _entry(item["Key"], int(item["Size"]))
            found[entry.name] = entry
            for folder in _folders(entry.name):
                found.setdefault(folder, Entry(folder, 0, "folder"))
        for name in self._uploads():
            found.setdefault(name, Entry(name, 0, "file"))
        return sorted(found.values(), key=lambda entry: entry.name)

    def digests(self, names: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Yield the SHA-256 that the server keeps, or that of what it returns."""
        for name, digest in self._each(self._digest, list(names)):
            if digest:
                yield name, digest

    def digests_after(
        self, asked: Sequence[tuple[str, str]]
    ) -> Iterator[tuple[str, str]]:
        """Fetch and hash here, since no such server hashes on demand; see Store."""
        for nonce, name in asked:
            with contextlib.suppress(NotFoundError, TooLargeError):
                data = self.get(name, LARGEST_OBJECT)
                yield name, hashlib.sha256(nonce.encode() + data).hexdigest()

    def make_stable(self, folder: str) -> None:
        """See that all that was put there is listed, whole.

        S3 answers a put when it is on stable storage; what is left to check is that
        it is there under its name.
        """
        inside = f"{folder}/" if folder else ""
        with self._lock:
            wanted = {
                name: size
                for name, size in self._put.items()
                if name.rpartition("/")[0] == folder
            }
        sizes = {item["Key"]: int(item["Size"]) for item in self._listed(inside)}
        for name, size in wanted.items():
            if sizes.get(name) != size:
                raise StoreError(
                    f"{self.address} took {name} and does not list it whole",
                    transient=True,
                )

    def delete(self, name: str) -> None:
        """Remove an object, or an upload that was never ended; see Store."""
        with self._lock:
            self._put.pop(name, None)
        if name.rpartition("/")[2].startswith(PART_PREFIX):
            for found, upload in self._uploads().items():
                if found == name:
                    self._abort(upload)
        self._ask("delete_object", name, Key=name)

    def delete_folder(self, name: str) -> None:
        """Remove every key below a folder; see Store."""
        for found, upload in self._uploads().items():
            if found.startswith(f"{name}/"):
                self._abort(upload)
        keys = [item["Key"] for item in self._listed(f"{name}/")]
        for _ in self._each(lambda key: self._ask("delete_object", key, Key=key), keys):
            pass

    def close(self) -> None:
        """Let go of every request under way."""
        self._calls.close()

    def _fetch(self, name: str, limit: int, words: dict[str, Any]) -> bytes:
        def fetch() -> bytes:
            answer = self._request("get_object", Key=name, **words)
            with contextlib.closing(answer["Body"]) as body:
                size = int(answer.get("ContentLength", 0))
                data: bytes = body.read(limit + 1) if size <= limit else b""
            if size > limit or len(data) > limit:
                raise TooLargeError(
                    f"{name} is larger than it can be: over {limit} bytes"
                )
            if len(data) != size:
                raise StoreError(f"{name} came back cut", transient=True)
            return data

        return self._guarded(fetch, name)

    def _digest(self, name: str) -> str:
        try:
            answer = self._ask("head_object", name, Key=name, ChecksumMode="ENABLED")
        except NotFoundError:
            return ""
        # A sum of parts' sums (COMPOSITE, or with a dash) is not the object's.
        kept = str(answer.get("ChecksumSHA256", ""))
        if kept and "-" not in kept and answer.get("ChecksumType") != "COMPOSITE":
            with contextlib.suppress(ValueError):
                return base64.b64decode(kept, validate=True).hex()
        with contextlib.suppress(NotFoundError, TooLargeError):
            return hashlib.sha256(self.get(name, LARGEST_OBJECT)).hexdigest()
        return ""

    def _size(self, name: str) -> int | None:
        try:
            answer = self._ask("head_object", name, Key=name)
        except NotFoundError:
            return None
        return int(answer["ContentLength"])

    def _listed(self, inside: str) -> Iterator[dict[str, Any]]:
        """Yield what is listed below a part of the vault, by names in the vault."""
        start = len(self._place.key(""))
        words: dict[str, Any] = {}
        while True:
            page = self._ask(
                "list_objects_v2", "listing", Prefix=self._place.key(inside), **words
            )
            for item in page.get("Contents", []):
                yield {**item, "Key": item["Key"][start:]}
            if not page.get("IsTruncated"):
                return
            words = {"ContinuationToken": page["NextContinuationToken"]}

    def _uploads(self) -> dict[str, dict[str, str]]:
        """Return uploads that were begun in parts: a name for each -> how to end it.

        Servers that have no such thing, or do not let us see it, have none.
        """
        try:
            page = self._ask(
                "list_multipart_uploads", "uploads", Prefix=self._place.key("")
            )
        except StoreError as error:
            if error.transient:
                raise
            return {}
        start = len(self._place.key(""))
        found: dict[str, dict[str, str]] = {}
        for item in page.get("Uploads", []):
            folder = str(item["Key"])[start:].rpartition("/")[0]
            mark = hashlib.sha256(str(item["UploadId"]).encode()).hexdigest()[:16]
            name = "/".join(filter(None, (folder, PART_PREFIX + mark)))
            found[name] = {"Key": item["Key"], "UploadId": item["UploadId"]}
        return found

    def _abort(self, upload: dict[str, str]) -> None:
        words = {**upload, "Key": upload["Key"][len(self._place.key("")) :]}
        with contextlib.suppress(NotFoundError):
            self._ask("abort_multipart_upload", words["Key"], **words)

    def _make_bucket(self) -> None:
        region = self._connected().meta.region_name
        words: dict[str, Any] = {}
        if not self._place.endpoint and region not in {None, "us-east-1", "aws-global"}:
            words["CreateBucketConfiguration"] = {"LocationConstraint": region}
        if self._place.lock_days:
            words["ObjectLockEnabledForBucket"] = True
        self._ask("create_bucket", f"making bucket {self._place.bucket}", **words)

    def _retention(self) -> dict[str, Any]:
        """Return the words that lock an object: nobody can shorten COMPLIANCE."""
        now = dt.datetime.fromtimestamp(self._clock.now(), dt.UTC)
        until = now + dt.timedelta(days=self._place.lock_days)
        return {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": until}

    def _keeps_names(self) -> bool:
        """Return whether the server honours If-None-Match, tried once a process."""
        with self._lock:
            if self._conditional is None:
                self._conditional = self._try_condition()
                if not self._conditional:
                    self._tell(
                        f"{self.address} ignores If-None-Match: each name is looked "
                        "for before it is given; do not run two `init` there at once"
                    )
            return self._conditional

    def _try_condition(self) -> bool:
        """Put one object twice; the second must be refused.

        A third try tells a server that ignores the condition from a rival who has
        just removed the same probe.
        """
        for _ in range(3):
            try:
                self._ask(
                    "put_object", PROBE, Key=PROBE, Body=_PROBE_BODY, IfNoneMatch="*"
                )
            except AlreadyThereError:
                break
            except _UnsupportedError:
                return False
        else:
            self._drop_probe()
            return False
        self._drop_probe()
        return True

    def _drop_probe(self) -> None:
        # Who may only add cannot remove it; it is a leftover that clean knows.
        with contextlib.suppress(StoreError):
            self._ask("delete_object", PROBE, Key=PROBE)

    def _each(
        self, work: Callable[[str], _T], names: Sequence[str]
    ) -> Iterator[tuple[str, _T]]:
        """Yield (name, result), several at a time, those that fail left out.

        Raises:
            StoreError: the first failure, when all the others have been yielded.
        """
        failure: StoreError | None = None
        with ThreadPoolExecutor(REQUESTS, thread_name_prefix="s3") as pool:
            futures = [(name, pool.submit(work, name)) for name in names]
            for name, future in futures:
                try:
                    result = future.result()
                except StoreError as error:
                    failure = failure or error
                    continue
                yield name, result
        if failure is not None:
            raise failure

    def _ask(self, verb: str, what: str, **words: Any) -> dict[str, Any]:  # noqa: ANN401
        """Make one request and return the answer.

        Raises:
            AlreadyThereError: a condition was not met.
            NotFoundError: no such object or bucket.
            StoreError: anything else.
        """
        return self._guarded(lambda: self._request(verb, **words), what)

    def _request(self, verb: str, **words: Any) -> dict[str, Any]:  # noqa: ANN401
        if "Key" in words:
            words["Key"] = self._place.key(words["Key"])
        call = getattr(self._connected(), verb)
        answer: dict[str, Any] = call(Bucket=self._place.bucket, **words)
        return answer

    def _guarded(self, work: Callable[[], _T], what: str) -> _T:
        """Do something in a thread that can be let go; errors are ours."""
        from standfast.backup.stores import s3_errors as errors  # noqa: PLC0415

        self._connected()
        try:
            return self._calls.run(work)
        except errors.KNOWN as error:
            code = errors.code_of(error)
            if code in errors.TAKEN:
                raise AlreadyThereError(f"{what} is there already") from None
            if code in errors.BEYOND:
                raise _BeyondError(f"{what} ends before that") from None
            if code in errors.NOT_IMPLEMENTED:
                raise _UnsupportedError(
                    f"{self.address}: {what}: the server has no such thing"
                ) from None
            raise errors.explain(error, what, self.address) from None

    def _connected(self) -> Any:  # noqa: ANN401
        with self._connecting:
            if self._client is None:
                self._client = connect(self._place)
            return self._client


class _BeyondError(StoreError):
    """A range that begins where the object has ended."""

    def __init__(self, message: str) -> None:
        super().__init__(message, transient=False)


class _UnsupportedError(StoreError):
    """The server says that it has no such thing."""

    def __init__(self, message: str) -> None:
        super().__init__(message, transient=False)


def _entry(name: str, size: int) -> Entry:
    """Return what a key stands for; one that ends in a slash is a folder's mark."""
    if name.endswith("/"):
        return Entry(name.rstrip("/"), 0, "other" if size else "folder")
    return Entry(name, size, "file")


def _folders(name: str) -> Iterator[str]:
    """Yield the folders above a name."""
    parts = name.split("/")[:-1]
    for count in range(1, len(parts) + 1):
        yield "/".join(parts[:count])
