"""The page that gets everything back without this program.

``RECOVER.txt`` lies in every vault with its real values; the recovery kit is the
same page with what must not be taken from the vault: the signer's key and the
owner's recipients. Its indented lines are one sh script, and the tests run them as
they stand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from standfast.backup.model import VaultInfo

_RECIPE = r"""
Everything below needs stock tools only: minisign, sha256sum, age, zstd, zfs.
(FreeBSD: pkg install minisign age zstd; before 14.0 say
sha256sum() {{ shift; sha256 -c "$@"; }} or compare `sha256 -r *` by eye.)
The indented lines are a script for sh. Set the first four to your own values.

    VAULT=${{VAULT:-.}}                    # this folder, or a copy of it
    KEY=${{KEY:-$HOME/owner.key}}          # the owner's age or ssh private key
    SIGNER=${{SIGNER:-{signer}}}
    WANT=${{WANT:-pool/dataset@snapshot}}  # what to get back

1. Is the vault's own part what was signed? Take SIGNER from the recovery kit,
   not from here: whoever can write to this folder can write this text.

    set -eu; umask 077; cd "$VAULT"
    signed() {{  # by any key of $SIGNER
        for K in $SIGNER; do
            if minisign -V -q -P "$K" -m "$1" 2>/dev/null; then return 0; fi
        done
        return 1
    }}
    signed SHA256SUMS
    sha256sum -c --quiet SHA256SUMS

2. Open the vault identity with the owner's key (a passphrase is asked for if the
   vault was made with one; then leave out -i "$KEY").

    OPEN=$(mktemp -d)
    trap 'rm -rf "$OPEN"' EXIT
    age -d -i "$KEY" -o "$OPEN/vault.key" identity.age

3. Find the archive: each manifest says what it is. Only signed ones count. An
   increment also needs what it builds on, down to a full one: its from_guid is the
   guid of another archive.

    for A in archives/*/; do
        signed "$A/SHA256SUMS" || continue
        M="$OPEN/$(basename "$A").json"
        age -d -i "$OPEN/vault.key" "$A/manifest.json.age" > "$M"
    done
    said() {{ sed -n 's/^    "'"$1"'": "\(.*\)",*$/\1/p' "$2" | head -n 1; }}
    M=$(for M in $(grep -lF "  \"name\": \"$WANT\"," "$OPEN"/*.json); do
            sed -n 's|^  "created": "\(.*\)",$|\1 '"$M|p" "$M"
        done | sort | tail -n 1)
    M=${{M##* }}   # of several of that name the newest
    test -n "$M"
    CHAIN="$M"
    FROM=$(said from_guid "$M")
    while [ "${{FROM:-0}}" != 0 ]; do
        M=""
        for C in $(grep -l "^    \"guid\": \"$FROM\"" "$OPEN"/*.json); do
            M=$C   # of several a full one
            if [ "$(said from_guid "$C")" = 0 ]; then break; fi
        done
        test -n "$M"
        CHAIN="$M $CHAIN"
        FROM=$(said from_guid "$M")
    done

4. Is it whole? Every object must be there and unaltered.

    for M in $CHAIN; do
        (cd "archives/$(basename "$M" .json)" && sha256sum -c --quiet SHA256SUMS)
    done

5. Get it back, the full one first and then each increment in order. The sums of
   step 4 have covered every byte that is used here. With TARGET set it goes to zfs
   receive (a snapshot whose name comes twice is renamed), otherwise to files, one
   for each archive.

    restore() {{
        for S in "archives/$1"/*.zst.age; do
            age -d -i "$OPEN/vault.key" "$S" | zstd -d -q -c
        done
    }}
    N=0
    for M in $CHAIN; do
        A=$(basename "$M" .json)
        SNAP=$(sed -n 's/^  "name": ".*@\(.*\)",$/\1/p' "$M")
        if [ -z "${{TARGET:-}}" ]; then
            restore "$A" > "${{OUTPUT:-restored.stream}}$([ $N = 0 ] || echo ".$N")"
        elif [ $N = 0 ]; then
            restore "$A" | zfs receive "$TARGET"
        else
            if zfs list "$TARGET@$SNAP" > "$OPEN/list" 2>&1; then
                zfs rename "$TARGET@$SNAP" "$TARGET@$SNAP-before-$N"
            fi
            restore "$A" | zfs receive -F "$TARGET"
        fi
        N=$((N + 1))
    done
"""


def recovery_text(info: VaultInfo, signers: Sequence[str]) -> str:
    """Return ``RECOVER.txt`` for a vault.

    Args:
        info: the vault's document.
        signers: the public signing keys that count, the vault's maker first.
    """
    head = (
        f"This folder is standfast vault {info.vault}, format {info.format}.\n"
        f"Its recipient is {info.recipient};\n"
        f"segments hold {info.segment_size} bytes of plaintext each.\n"
    )
    return head + _RECIPE.format(signer=" ".join(signers))


def kit_text(
    info: VaultInfo,
    address: str,
    owners: Sequence[str],
    signers: Sequence[str],
    remembered: Sequence[str],
) -> str:
    """Return the page that an owner prints and keeps away from the vault.

    Args:
        info: the vault's document.
        address: where it lies.
        owners: who opens it.
        signers: the senders' keys that count.
        remembered: what ``kit.kit_lines`` says of all keys.
    """
    first = signers[0] if signers else "UNKNOWN"
    lines = [
        "STANDFAST RECOVERY KIT - print it and keep it away from the vault",
        "",
        f"Vault:      {info.vault}",
        f"Address:    {address}",
        f"Recipient:  {info.recipient}",
        "",
        "The vault opens with the private key (or passphrase) of any of:",
        *(f"    {owner}" for owner in owners or ["(not known on this machine)"]),
        "",
        "Only signatures by these keys count:",
        *(f"    {signer}" for signer in signers or ["(none pinned on this machine)"]),
        "",
        *remembered,
        f"`standfast backup verify {address} --kit THIS-FILE` compares.",
        "",
        "With standfast:",
        f"    standfast backup list {address} --identity KEY --signer {first}",
        f"    standfast backup restore {address} DATASET@SNAPSHOT TARGET \\",
        f"        --identity KEY --signer {first}",
        f"On another sending machine, once: --recipient {info.recipient}",
        "",
        "Without standfast:",
    ]
    return "\n".join(lines) + "\n" + _RECIPE.format(signer=" ".join(signers) or first)
