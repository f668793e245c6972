"""Configuration files: TOML in, frozen values out, errors with path and hint.

An area describes its file by subclasses of ``Section``, one for each table. An
unknown key is refused with its path and the nearest name that exists; a wrong type
with its path. What the types cannot say the area checks itself, with ``at``.
"""

from __future__ import annotations

import difflib
import tomllib
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin

import msgspec

from standfast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of a file."""


_File = TypeVar("_File", bound=Section)
_T = TypeVar("_T")


def read_toml(text: str, kind: type[_File], source: str) -> _File:
    """Return the tables of a file.

    Args:
        text: the file.
        kind: its outermost table.
        source: what to call it in messages.

    Raises:
        UsageError: it is no TOML, it has an unknown key, or a value of a wrong
            type; the message starts with the path of what is wrong.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source} is not TOML: {error}".lower()) from None
    _check(raw, kind, "")
    return msgspec.convert(raw, kind, strict=True)


def near(word: str, names: Iterable[str]) -> str:
    """Return a hint: the name that may have been meant, or all there are."""
    names = list(names)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"one of: {', '.join(names)}"


def at(path: str, read: Callable[[], _T]) -> _T:
    """Return what ``read`` does, its complaint under the path.

    Raises:
        UsageError: it complained, by a UsageError or a ValueError.
    """
    try:
        return read()
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", hint=error.hint) from None
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None


def between(value: float, low: float, high: float) -> None:
    """Check a number's range, both ends included.

    Raises:
        ValueError: it is out of range.
    """
    if not low <= value <= high:
        raise ValueError(f"{value:g} is not between {low:g} and {high:g}")


def _check(raw: Any, kind: Any, path: str) -> None:  # noqa: ANN401 - any TOML value
    """Refuse unknown keys, with the nearest name that exists, and wrong types.

    Raises:
        UsageError: there is one.
    """
    if isinstance(raw, dict):
        _check_keys(raw, kind, path)
    try:
        msgspec.convert(raw, kind, strict=True)
    except msgspec.ValidationError as error:
        raise UsageError(_words(str(error), path)) from None


def _check_keys(raw: dict[str, Any], kind: Any, path: str) -> None:  # noqa: ANN401
    fields = {f.encode_name: f.type for f in msgspec.structs.fields(kind)}
    for key, value in raw.items():
        here = f"{path}{key}"
        if key not in fields:
            raise UsageError(f"{here}: there is no such key", hint=near(key, fields))
        inner = fields[key]
        table = _table(inner)
        if table is not None:
            _check(value, table, f"{here}.")
        elif get_origin(inner) is dict and isinstance(value, dict):
            table = _table(get_args(inner)[1])
            for name, entry in value.items() if table is not None else ():
                _check(entry, table, f"{here}.{name}.")


def _table(kind: Any) -> Any:  # noqa: ANN401 - a type, or a union of types
    """Return the Struct that a type is, or may be; None if it is no table."""
    options = get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)
    for option in options:
        if isinstance(option, type) and issubclass(option, msgspec.Struct):
            return option
    return None


def _words(complaint: str, prefix: str) -> str:
    """Turn msgspec's ``Expected `int`, got `str` - at `$.a.b``` into ours."""
    said, _, path = complaint.partition(" - at ")
    path = (prefix + path.strip("`").removeprefix("$").lstrip(".")).rstrip(".")
    said = (said[:1].lower() + said[1:]).replace("`", "")
    return f"{path}: {said}" if path else said
