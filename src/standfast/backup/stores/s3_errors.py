"""What boto3's errors mean: whether to try again, and what to tell a person."""

from __future__ import annotations

from typing import Any

from botocore import exceptions as boto

from standfast.errors import NotFoundError, StoreError

CREDENTIALS_HINT = (
    "boto3 looks in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, then in "
    "~/.aws/credentials (AWS_PROFILE names a section)"
)
NO_BUCKET = {"NoSuchBucket"}
NO_KEY = {"NoSuchKey", "NotFound", "404"}
# An If-None-Match that failed; 409 is a rival in the middle of the same key.
TAKEN = {"PreconditionFailed", "412"}
BEYOND = {"InvalidRange", "416"}
# Servers that know no conditional write say so in one of these ways.
NOT_IMPLEMENTED = {"NotImplemented", "501"}
_PASSING_STATUS = 500
_TOO_MANY = {408, 409, 425, 429}
# Codes below 500 that pass all the same: throttling, and bytes hurt on their way.
_PASSING = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
_REFUSED = {
    "AccessDenied",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "403",
}
# What boto3 raises, and what may come through it from the socket.
KNOWN = (boto.BotoCoreError, boto.ClientError, OSError)
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.ProfileNotFound,
    boto.CredentialRetrievalError,
)
_CONNECTION = (
    boto.ConnectionError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
    boto.ResponseStreamingError,
)


def code_of(error: BaseException) -> str:
    """Return the server's own code for an error; empty if it is not the server's."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def status_of(error: BaseException) -> int:
    """Return the HTTP status of a server's error; 0 if it is not the server's."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def explain(error: Exception, what: str, address: str) -> StoreError:
    """Return our error for one of boto3's.

    Args:
        error: boto3's.
        what: the object, or what was being done.
        address: where.
    """
    code = code_of(error)
    if code in NO_BUCKET:
        return NotFoundError(f"{address} does not exist: there is no such bucket")
    if code in NO_KEY:
        return NotFoundError(f"{what} is missing")
    if code:
        return _from_server(error, code, what, address)
    if isinstance(error, _NO_CREDENTIALS):
        return StoreError(
            f"{address}: {_first_line(error)}", hint=CREDENTIALS_HINT, transient=False
        )
    certificate = "CERTIFICATE_VERIFY_FAILED" in str(error)
    connection = isinstance(error, _CONNECTION) and not certificate
    return StoreError(f"{address}: {_first_line(error)}", transient=connection)


def _from_server(error: Exception, code: str, what: str, address: str) -> StoreError:
    status = status_of(error)
    response: dict[str, Any] = getattr(error, "response", {})
    said = str(response.get("Error", {}).get("Message", "")).strip().rstrip(".")
    passing = status >= _PASSING_STATUS or status in _TOO_MANY or code in _PASSING
    hint = CREDENTIALS_HINT if code in _REFUSED else ""
    text = f"{address}: {what}: the server says {code}"
    text += f" ({said[:1].lower()}{said[1:]})" if said and said != code else ""
    return StoreError(text, hint=hint, transient=passing)


def _first_line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0].rstrip(".")
    return text[:1].lower() + text[1:] if text else type(error).__name__
