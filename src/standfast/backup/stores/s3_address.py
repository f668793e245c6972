"""Where a vault in object storage lies: ``s3://bucket[/prefix][?endpoint=URL]``.

The endpoint is part of the address, since two servers may both have a bucket of
that name; ``--endpoint`` is the other way to write it. Everything else about the
server (credentials, region, certificates) is boto3's own matter and is found where
boto3 looks for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, urlsplit

from standfast.errors import UsageError

SCHEME = "s3://"
# As S3 servers have them, old ones included: 3 to 255, no slash.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
# 100 years: longer is a slip, and dates end somewhere.
MOST_LOCK_DAYS = 36_500
HINT = "write s3://bucket/prefix, with --endpoint URL for a server that is not AWS"


@dataclass(frozen=True)
class S3Address:
    """A place in a bucket.

    Attributes:
        bucket: its name.
        prefix: what every key begins with, without slashes at its ends; may be empty.
        endpoint: the server's URL; empty for what boto3's configuration says.
        lock_days: how long what is stored must not be deletable; 0 for no lock.
    """

    bucket: str
    prefix: str
    endpoint: str = ""
    lock_days: int = 0

    def text(self) -> str:
        """Return the address; the lock makes it no other place."""
        place = SCHEME + "/".join(filter(None, (self.bucket, self.prefix)))
        return f"{place}?endpoint={self.endpoint}" if self.endpoint else place

    def key(self, name: str) -> str:
        """Return the key of a name in the vault."""
        return f"{self.prefix}/{name}" if self.prefix else name


def parse_s3_address(text: str) -> S3Address:
    """Return what an address says.

    Raises:
        UsageError: it is not ``s3://bucket[/prefix][?endpoint=URL][&object-lock=DAYS]``.
    """
    place, _, query = text.removeprefix(SCHEME).partition("?")
    bucket, _, prefix = place.partition("/")
    prefix = prefix.strip("/")
    parts = prefix.split("/") if prefix else []
    if not _BUCKET.fullmatch(bucket) or {"", ".", ".."} & set(parts):
        raise UsageError(f"not a place in object storage: {text}", hint=HINT)
    options = dict(parse_qsl(query, keep_blank_values=True)) if query else {}
    if unknown := options.keys() - {"endpoint", "object-lock"}:
        raise UsageError(
            f"an s3 address has no option {min(unknown)!r}",
            hint="endpoint and object-lock are known",
        )
    return S3Address(
        bucket,
        prefix,
        _checked_endpoint(options.get("endpoint", "")),
        lock_days(options.get("object-lock", "0")),
    )


def with_options(address: str, endpoint: str, lock: str) -> str:
    """Return an address with what the flags add to it.

    Args:
        address: as the user wrote it, of any kind.
        endpoint: the value of ``--endpoint``; empty for none.
        lock: the value of ``--object-lock``; empty for none.

    Raises:
        UsageError: the flags are for object storage, and the address is not; or
            both say something else.
    """
    if not endpoint and not lock:
        return address
    if not address.startswith(SCHEME):
        flag = "--endpoint" if endpoint else "--object-lock"
        raise UsageError(f"{flag} is for s3://, not for {address}")
    place = parse_s3_address(address)
    endpoint = _checked_endpoint(endpoint)
    if endpoint and place.endpoint not in {"", endpoint}:
        raise UsageError(f"two endpoints: {place.endpoint} and {endpoint}")
    place = replace(place, endpoint=endpoint or place.endpoint)
    days = lock_days(lock) if lock else place.lock_days
    if not days:
        return place.text()
    joint = "&" if place.endpoint else "?"
    return f"{place.text()}{joint}object-lock={days}"


def lock_days(text: str) -> int:
    """Return a number of days.

    Raises:
        UsageError: it is none.
    """
    if not text.isascii() or not text.isdigit() or int(text) > MOST_LOCK_DAYS:
        raise UsageError(f"not a number of days: {text}")
    return int(text)


def _checked_endpoint(text: str) -> str:
    """Return a server's URL in one form."""
    if not text:
        return ""
    try:
        parts = urlsplit(text)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        good = False
        parts = urlsplit("")
    if good and (parts.username or parts.password):
        # Not repeated: it may hold a secret.
        raise UsageError(
            "an endpoint holds no credentials",
            hint="boto3 takes them from the environment or ~/.aws/credentials",
        )
    if not good or parts.query or parts.fragment:
        raise UsageError(
            f"not an endpoint: {text}", hint="write https://host or http://host:port"
        )
    return text.rstrip("/")
