"""Every error that a user may see, and the exit status that goes with it.

The tree is shaped by what the caller can do about it. A message is one lower-case
line without a full stop; the hint says what to do next. Nothing here prints or
exits: that is the command line's part alone.
"""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """Exit statuses, unique over the whole package; an unknown one means failure."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PARTLY_DONE = 3
    NO_VAULT = 10
    LOCKED = 11
    NO_IDENTITY = 12
    DAMAGED = 13
    NOT_TRUSTED = 14
    RISKY = 20
    DOES_NOT_BOOT = 21
    CANNOT_TELL = 22
    INTERRUPTED = 130


class StandfastError(Exception):
    """Base of every error raised on purpose.

    Attributes:
        message: one line for a person.
        hint: what to do next, or an empty string.
        status: the exit status of a command that ends with this error.
    """

    status: ExitStatus = ExitStatus.FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(StandfastError):
    """What was asked cannot be asked that way: flags, names or configuration."""

    status = ExitStatus.USAGE


class CommandError(StandfastError):
    """A program that we ran failed, or could not be started."""


class CommandNotFoundError(CommandError):
    """A program that we need is not installed, or not in PATH."""


class HostUnreachableError(CommandError):
    """The way to another machine failed.

    Attributes:
        transient: whether trying again may help (a dropped connection) or not (a
            refused key).
    """

    def __init__(self, message: str, *, hint: str = "", transient: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient


class StreamError(StandfastError):
    """A send stream is cut, corrupt, or not what it says it is."""


class StoreError(StandfastError):
    """A store could not do what was asked.

    Attributes:
        transient: whether trying again may help (a dropped connection) or not
            (a full disk, a permission).
    """

    def __init__(self, message: str, *, hint: str = "", transient: bool) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient


class NotFoundError(StoreError):
    """The store holds no object of that name."""

    def __init__(self, message: str) -> None:
        super().__init__(message, transient=False)


class AlreadyThereError(StoreError):
    """The store holds an object of that name; nothing is ever overwritten."""

    def __init__(self, message: str) -> None:
        super().__init__(message, transient=False)


class TooLargeError(StoreError):
    """An object is larger than it can be: not what was stored under its name."""

    status = ExitStatus.DAMAGED

    def __init__(self, message: str) -> None:
        super().__init__(message, transient=False)


class NoVaultError(StandfastError):
    """There is no vault at that address."""

    status = ExitStatus.NO_VAULT


class LockedError(StandfastError):
    """Another process holds what we need."""

    status = ExitStatus.LOCKED


class NoIdentityError(StandfastError):
    """No key or passphrase that was given opens what has to be opened."""

    status = ExitStatus.NO_IDENTITY


class DamagedError(StandfastError):
    """Something in the vault is missing, altered, cut or not what it should be."""

    status = ExitStatus.DAMAGED


class NotTrustedError(StandfastError):
    """A signature is missing, wrong, or made by a key that nobody pinned."""

    status = ExitStatus.NOT_TRUSTED


class InterruptError(StandfastError):
    """Ctrl-C or SIGTERM."""

    status = ExitStatus.INTERRUPTED
