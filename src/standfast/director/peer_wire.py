"""Sealed datagrams between two directors; pure.

Both share a key of 32 bytes. A datagram is::

    "SFD1" | kind 1 | rank 1 | own nonce 16 | echo 16 | sequence 8 | body | seal 32

big-endian; the seal is HMAC-SHA256 over everything before it. So the rank, unlike
CARP's and VRRP's, cannot be altered on the way.

Freshness needs no clock and nothing kept over a restart. Each daemon draws a nonce
when it starts. A datagram is *believed* only if it echoes the receiver's own nonce
(so it was made in this life of ours), its sequence is above the last believed one of
that sender (so it is no repeat), and its sender has no successor yet. Any other
datagram with a good seal can only make us *answer*: we tell its sender its nonce,
which lets it be believed next time; an old recording gains nothing by that. Our own
datagrams, sent back to us, are known by their nonce. What this does not give:
secrecy (pins are addresses of clients), and notice of a datagram that somebody holds
back and delivers before any later one.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from hashlib import sha256

from standfast.errors import StandfastError

MAGIC = b"SFD1"
NONCE_BYTES = 16
KEY_BYTES = 32
SEAL_BYTES = 32
NO_NONCE = bytes(NONCE_BYTES)
_HEAD = struct.Struct("!4sBB16s16sQ")


class Kind(IntEnum):
    """What a body is."""

    STATUS = 1
    PINS = 2
    ORDERS = 3


class Refusal(StandfastError):  # noqa: N818 - not a fault of ours
    """A datagram that is not acted upon.

    Attributes:
        reason: one word, to count by.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Message:
    """What a peer says.

    Attributes:
        kind: what the body is.
        rank: the sender's rank in the election, 0 to 254.
        body: at most as long as a datagram leaves room for.
    """

    kind: Kind
    rank: int
    body: bytes


@dataclass(frozen=True)
class Session:
    """One life of one director, and what it knows of the other's.

    Attributes:
        key: shared.
        own: our nonce.
        peer: the nonce of the sender that we last believed; zeros before.
        candidate: a nonce that wants to be believed and was not yet.
        sent: the last sequence that we used.
        heard: the last sequence that we believed of ``peer``.
        past: nonces that we believed before ``peer``, and never shall again.
    """

    key: bytes
    own: bytes
    peer: bytes = NO_NONCE
    candidate: bytes = NO_NONCE
    sent: int = 0
    heard: int = 0
    past: frozenset[bytes] = frozenset()

    def __repr__(self) -> str:
        return f"Session(sent={self.sent}, heard={self.heard})"


def seal(session: Session, message: Message) -> tuple[Session, bytes]:
    """Return the datagram to the peer that we believe, and the session after it."""
    return _seal(session, message, session.peer)


def answer(session: Session, message: Message) -> tuple[Session, bytes]:
    """Return the datagram to the sender that wants to be believed."""
    return _seal(session, message, session.candidate)


def _seal(session: Session, message: Message, echo: bytes) -> tuple[Session, bytes]:
    after = replace(session, sent=session.sent + 1)
    head = _HEAD.pack(MAGIC, message.kind, message.rank, session.own, echo, after.sent)
    return after, head + message.body + _tag(session.key, head + message.body)


def _tag(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, sha256).digest()


def unseal(session: Session, datagram: bytes) -> tuple[Session, Message | None]:
    """Check a datagram; return the session after it, and the message if believed.

    Without a message, the sender is genuine but not known to live now; the session
    then has it as ``candidate``, and an ``answer`` is due.

    Raises:
        Refusal: it is forged, altered, repeated, our own, or of another form.
    """
    if len(datagram) < _HEAD.size + SEAL_BYTES or not datagram.startswith(MAGIC):
        raise Refusal("form", "a datagram of another form")
    sealed, tag = datagram[:-SEAL_BYTES], datagram[-SEAL_BYTES:]
    if not hmac.compare_digest(_tag(session.key, sealed), tag):
        raise Refusal("seal", "a datagram whose seal is wrong: forged, or another key")
    _, kind, rank, nonce, echo, sequence = _HEAD.unpack_from(sealed)
    if nonce == session.own:
        raise Refusal("own", "a datagram of our own came back")
    if nonce in session.past:
        raise Refusal("repeat", "a datagram of a life that is over")
    if echo != session.own:
        return replace(session, candidate=nonce), None
    if nonce == session.peer and sequence <= session.heard:
        raise Refusal("repeat", f"datagram {sequence} was heard before")
    if kind not in iter(Kind):
        raise Refusal("form", f"a message of unknown kind {kind}")
    past = session.past
    if session.peer not in (nonce, NO_NONCE):
        past |= {session.peer}
    after = replace(session, peer=nonce, candidate=NO_NONCE, heard=sequence, past=past)
    return after, Message(Kind(kind), rank, sealed[_HEAD.size :])
