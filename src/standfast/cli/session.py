"""What every backup command needs: the vault, the keys, the console, in one place."""

from __future__ import annotations

import contextlib
import getpass
import os
import random  # noqa: TID251 - drawn here, handed on
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from standfast.backup.folders import state_folder
from standfast.backup.minisign import PublicKey
from standfast.backup.secret_files import read_passphrase, read_secret
from standfast.backup.stores import open_store
from standfast.backup.stores.retry import RetryingStore
from standfast.backup.stores.s3_address import with_options
from standfast.backup.vault import Vault, open_vault
from standfast.clock import StoppableClock
from standfast.console import Console
from standfast.errors import DamagedError, NoIdentityError, UsageError
from standfast.host.local import LocalHost
from standfast.pace import Unlimited
from standfast.units import parse_duration

if TYPE_CHECKING:
    import argparse

    from standfast.backup.age import Identity
    from standfast.backup.kit import Kit
    from standfast.backup.proof import Trust
    from standfast.backup.recipients import (
        X25519Identity,
    )
    from standfast.backup.stores import Store
    from standfast.pace import Pace


class Session:
    """What one command holds open: clock, hosts, stores, console."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.clock = StoppableClock()
        self.console = Console(
            "json" if arguments.json else "text",
            -1 if arguments.quiet else arguments.verbose,
        )
        self.base = state_folder(os.environ)
        self.host = LocalHost()
        self._exit = contextlib.ExitStack()
        self._exit.callback(self.host.close)

    def store(self, pace: Pace | None = None) -> Store:
        """Return the store at the command's VAULT, with retries."""
        address = with_options(
            self.arguments.vault,
            self.arguments.endpoint or "",
            getattr(self.arguments, "object_lock", None) or "",
        )
        patience = parse_duration(self.arguments.retry_for)
        return self.store_at(address, pace or Unlimited(), patience)

    def store_at(self, address: str, pace: Pace, patience: float) -> Store:
        """Return the store at an address, with retries for ``patience`` seconds."""
        if not address.isprintable():
            # It is remembered as JSON, and shown; what is no text is neither.
            raise UsageError(
                f"the vault's address is not printable text: {address!a}",
                hint="rename the folder, or reach it through a link",
            )
        if "://" not in address:
            address = os.path.abspath(address)  # noqa: PTH100 - keeps it a string
        store = RetryingStore(
            open_store(address, pace, self.console.note),
            clock=self.clock,
            chance=random.SystemRandom(),
            patience=patience,
            tell=self.console.note,
            wake=self.clock.stop,
        )
        self._exit.callback(store.close)
        return store

    def vault(self, pace: Pace | None = None, recipient: str | None = None) -> Vault:
        """Return the vault at the command's VAULT.

        Args:
            pace: how fast objects may travel.
            recipient: the vault recipient as the owner gives it.
        """
        arguments = self.arguments
        keys = getattr(arguments, "identity", None)
        opened = bool(keys or getattr(arguments, "passphrase_file", None))
        store = self.store(pace)
        return open_vault(store, self.base, self.clock, recipient, opened=opened)

    def kit(self) -> Kit | None:
        """Return the recovery kit given with ``--kit``."""
        name = getattr(self.arguments, "kit", None)
        if name is None:
            return None
        from standfast.backup.kit import read_kit  # noqa: PLC0415

        try:
            return read_kit(Path(name).read_text(encoding="utf-8"), name)
        except (OSError, UnicodeDecodeError):
            raise UsageError(f"cannot read a recovery kit from {name}") from None

    @staticmethod
    def check_kit(vault: Vault, kit: Kit) -> None:
        """Refuse a vault that is not the kit's.

        Raises:
            DamagedError: it is another one.
        """
        if kit.vault != vault.info.vault:
            raise DamagedError(
                f"the kit is of vault {kit.vault}, and {vault.info.vault} lies at "
                f"{vault.address}",
                hint="another vault was put there, or it is another one's kit",
            )

    def trust(self, vault: Vault) -> Trust:
        """Return whose signatures count for this command."""
        kit = self.kit()
        if kit is not None:
            self.check_kit(vault, kit)
        arguments = self.arguments
        return vault.trust(
            [read_signer(text) for text in getattr(arguments, "signer", [])],
            [read_signer(text) for text in getattr(arguments, "pruner", [])],
            kit.trusted() if kit is not None else [],
        )

    def identity(self, vault: Vault) -> X25519Identity:
        """Return the vault identity, opened with what the command was given."""
        from standfast.backup.opening import open_vault_identity  # noqa: PLC0415

        return open_vault_identity(vault, self.identities())

    def close(self) -> None:
        """Let go of everything."""
        self._exit.close()

    def identities(self) -> list[Identity]:
        """Return the keys and the passphrase that the command was given.

        Raises:
            NoIdentityError: there are none.
        """
        from standfast.backup.keyfiles import parse_identities  # noqa: PLC0415
        from standfast.backup.recipients import PassphraseIdentity  # noqa: PLC0415

        found: list[Identity] = []
        for name in self.arguments.identity:
            found += parse_identities(read_secret(name), name, ask)
        if self.arguments.passphrase_file:
            secret = read_passphrase(self.arguments.passphrase_file)
            found.append(PassphraseIdentity(secret))
        if not found:
            raise NoIdentityError(
                "this needs a key",
                hint="pass --identity FILE, or --passphrase-file FILE",
            )
        return found


def read_signer(text: str) -> str:
    """Return a signing key given as itself or as the name of a file."""
    with contextlib.suppress(UsageError):
        # First of all: a key is base64, and may hold a slash.
        return PublicKey.parse(text).text
    # What is neither is not repeated: it may be a secret, given by mistake.
    if text.endswith(".pub") or os.path.isfile(text):  # noqa: PTH113 - never raises
        try:
            return Path(text).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            raise UsageError(f"cannot read a signing key from {text}") from None
    return text


def ask(prompt: str) -> str:
    """Ask a person, on the terminal.

    Raises:
        NoIdentityError: there is no terminal to ask on.
    """
    if not sys.stdin.isatty():
        raise NoIdentityError(
            f"cannot ask for the {prompt}: no terminal",
            hint="use a key without a passphrase, or --passphrase-file",
        )
    return getpass.getpass(f"{prompt}: ")


def host_name() -> str:
    """Return this machine's name."""
    return socket.gethostname()
