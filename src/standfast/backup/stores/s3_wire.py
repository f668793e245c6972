"""boto3's client, what is put on its wire, and letting go of it."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any, TypeVar

from standfast.errors import StoreError, UsageError
from standfast.units import KIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from standfast.backup.stores.s3_address import S3Address
    from standfast.pace import Pace

_T = TypeVar("_T")

PIECE_BYTES = 256 * KIB
REQUESTS = 8
CONNECT_SECONDS = 10
# S3 answers a PUT when it has stored it; a slow disk behind it may take a while.
READ_SECONDS = 60


def connect(place: S3Address) -> Any:  # noqa: ANN401 - boto3 makes its classes at run time
    """Return a client; nothing is sent yet.

    Raises:
        UsageError: boto3 is not installed.
        StoreError: its configuration is wrong.
    """
    try:
        import boto3  # noqa: PLC0415 - an extra, and slow to import
        from botocore.config import Config  # noqa: PLC0415
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415
    except ImportError:
        raise UsageError(
            "object storage needs the Python package boto3",
            hint="pip install 'standfast[s3]', or on FreeBSD pkg install py311-boto3",
        ) from None
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        tcp_keepalive=True,
        max_pool_connections=2 * REQUESTS,
        retries={"total_max_attempts": 1},
        # We give the sums that count; others would be passes over every byte.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # The body's SHA-256 travels in a signed header already.
        s3={"payload_signing_enabled": False},
    )
    try:
        return boto3.client("s3", endpoint_url=place.endpoint or None, config=config)
    except (BotoCoreError, ValueError) as error:
        raise StoreError(f"{place.text()}: {error}", transient=False) from None


class Calls:
    """Requests under way, each in a thread that can be let go.

    Nothing can interrupt a thread that waits for a dead server; but whoever waits
    for the thread can be told to go on. The threads are daemons: they end with the
    process, or when the server answers at last.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._waiting: set[Future[Any]] = set()
        self._closed = False

    def run(self, work: Callable[[], _T]) -> _T:
        """Return what ``work`` returns, or raise what it raises.

        Raises:
            StoreError: ``close`` was called, now or before.
        """
        future: Future[_T] = Future()
        with self._lock:
            self.check()
            self._waiting.add(future)
        threading.Thread(target=_settle, args=(future, work), daemon=True).start()
        try:
            return future.result()
        finally:
            with self._lock:
                self._waiting.discard(future)

    def close(self) -> None:
        """Let go of all."""
        with self._lock:
            self._closed = True
            for future in self._waiting:
                with contextlib.suppress(InvalidStateError):
                    future.set_exception(self._gone())

    def check(self) -> None:
        """Return if nobody has let go.

        Raises:
            StoreError: ``close`` was called.
        """
        if self._closed:
            raise self._gone()

    def _gone(self) -> StoreError:
        return StoreError(f"{self._address} was closed", transient=False)


def _settle(future: Future[_T], work: Callable[[], _T]) -> None:
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - handed on to who waits
        with contextlib.suppress(InvalidStateError):
            future.set_exception(error)
    else:
        with contextlib.suppress(InvalidStateError):
            future.set_result(result)


class Body:
    """A buffer as the file that boto3 wants, read at the sender's pace.

    Attributes:
        failure: what the pace raised; boto3 would wrap it beyond recognition.
    """

    def __init__(self, view: memoryview, pace: Pace, calls: Calls) -> None:
        self._view = view
        self._pace = pace
        self._calls = calls
        self._place = 0
        self.failure: BaseException | None = None

    def __len__(self) -> int:
        return len(self._view)

    def read(self, _count: int = -1) -> memoryview:
        """Return the next piece, of our own size: http asks for tiny ones."""
        step = self._view[self._place : self._place + PIECE_BYTES]
        try:
            self._calls.check()
            self._pace.take(len(step))
        except BaseException as error:
            self.failure = error
            raise
        self._place += len(step)
        return step

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place, as for sending the same body to another address."""
        start = {0: 0, 1: self._place, 2: len(self._view)}[whence]
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        """Return the place."""
        return self._place
