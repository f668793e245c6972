"""The far end's part of each verb of the ssh store: sh and base tools, no more.

Exit statuses: 40 the place is gone, 41 the name is taken, 42 no regular file, 43 cut
on the way. What they need is in the base of Linux and of FreeBSD alike.
"""

# A place that we may not enter is not a place that is gone; cd of dash does not say
# which, ls does.
_ENTER = (
    "LC_ALL=C; export LC_ALL; umask 077; "
    'cd -- "$1" 2>/dev/null || { e=$(ls -d -- "$1/." 2>&1) && e="cannot enter it"; '
    'case $e in *"No such file"*|*"Not a directory"*) exit 40;; esac; '
    'printf "%s\\n" "$e" >&2; exit 1; }; '
)
SCRIPTS = {
    # $1 root
    "create": (
        'LC_ALL=C; export LC_ALL; umask 077; mkdir -p -- "$1" || exit 1; '
        'cd -- "$1" || exit 1; '
        "set -- $(ls -A); "
        'for n in "$@"; do [ "$n" = lost+found ] || exit 41; done; '
        "echo standfast-done"
    ),
    # $1 root, $2 folder, $3 name, $4 size, $5 temporary name.
    # The size is checked before the name is given: a connection that drops looks
    # like the end of the input to cat.
    "put": (
        _ENTER + 'if [ -n "$2" ]; then mkdir -p -- "$2" && cd -- "$2" || exit 1; fi; '
        'if [ -e "$3" ] || [ -L "$3" ]; then exit 41; fi; '
        "trap 'rm -f -- \"$5\"' 0; trap 'exit 43' 1 2 13 15; "
        'cat > "$5" || exit 1; '
        's=$(wc -c < "$5"); [ $((s)) -eq "$4" ] || exit 43; '
        'if ln -- "$5" "$3" 2>/dev/null; then :; '
        'elif [ -e "$3" ]; then exit 41; '
        'else mv -- "$5" "$3" || exit 1; fi; '
        "echo standfast-done"
    ),
    # As above. mv would put the new one into a folder, if one lies there.
    "replace": (
        _ENTER + 'if [ -n "$2" ]; then mkdir -p -- "$2" && cd -- "$2" || exit 1; fi; '
        '[ ! -d "$3" ] || exit 1; '
        "trap 'rm -f -- \"$5\"' 0; trap 'exit 43' 1 2 13 15; "
        'cat > "$5" || exit 1; '
        's=$(wc -c < "$5"); [ $((s)) -eq "$4" ] || exit 43; '
        'mv -f -- "$5" "$3" || exit 1; '
        "echo standfast-done"
    ),
    # $1 root, $2 name
    "get": (
        _ENTER + 'if [ -L "$2" ] || [ ! -f "$2" ]; then exit 42; fi; '
        'echo standfast-data; exec cat -- "$2"'
    ),
    # $1 root, $2 name, $3 first byte from 1, $4 length. tail(1) seeks in a file, and
    # ends quietly when head has had enough.
    "get_range": (
        _ENTER + 'if [ -L "$2" ] || [ ! -f "$2" ]; then exit 42; fi; '
        '[ -r "$2" ] || exit 1; '
        'echo standfast-data; tail -c "+$3" -- "$2" | head -c "$4"'
    ),
    # $1 root; names on standard input
    "get_small": (
        _ENTER + "echo standfast-data; while IFS= read -r n; do "
        'if [ -f "$n" ] && [ ! -L "$n" ]; then printf "%s\\n" "$n"; fi; '
        "done | tar -cf - -T /dev/stdin || exit 1; echo standfast-done"
    ),
    # $1 root
    "entries": (
        _ENTER + "echo standfast-data; "
        "find . -path ./lost+found -prune -o -exec ls -lnd {} + || exit 1; "
        "echo standfast-done"
    ),
    # $1 root; names on standard input. A planted pipe would keep sha256sum waiting
    # for ever, and a link lead it elsewhere.
    "digests": (
        _ENTER + "echo standfast-data; while IFS= read -r n; do "
        'if [ -f "$n" ] && [ ! -L "$n" ]; then printf "%s\\n" "$n"; fi; done | '
        "if command -v sha256sum >/dev/null 2>&1; then xargs sha256sum --; "
        "else xargs sha256 -r; fi; echo standfast-done"
    ),
    # $1 root; a nonce and a name a line on standard input. Both hashers print the
    # sum first when they read standard input.
    "digests_after": (
        _ENTER + "if command -v sha256sum >/dev/null 2>&1; then h=sha256sum; "
        "else h=sha256; fi; echo standfast-data; while read -r n f; do "
        'if [ -f "$f" ] && [ ! -L "$f" ]; then '
        's=$({ printf %s "$n"; cat -- "$f"; } | $h) || exit 1; '
        'printf "%s  %s\\n" "${s%% *}" "$f"; fi; done; echo standfast-done'
    ),
    # $1 root, $2 folder. FreeBSD has fsync(1) in base, and its sync(8) does not
    # wait; Linux has a sync(1) that does.
    "make_stable": (
        _ENTER + "if ! command -v fsync >/dev/null 2>&1; then sync; "
        'elif [ -n "$2" ]; then cd -- "$2" && find . -type f -exec fsync {} + '
        "&& fsync . .. ../..; "
        'else for n in *; do if [ -f "$n" ] && [ ! -L "$n" ]; '
        'then fsync "$n" || exit 1; fi; done; fsync .; fi '
        "|| exit 1; echo standfast-done"
    ),
    # $1 root, $2 name
    "delete": _ENTER + 'rm -f -- "$2" || exit 1; echo standfast-done',
    # $1 root, $2 name
    "delete_folder": _ENTER + 'rm -rf -- "$2" || exit 1; echo standfast-done',
}
