"""The exception for unusable input, and helpers for error messages."""

import errno
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real

BAD_INPUT = 2  # the exit status that argparse uses for wrong arguments
TERMINATED = 143  # the exit status that shells report after SIGTERM
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_PLACE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
)


class InputError(ValueError):
    """The user's input cannot be used.

    The message names the setting, its value, the rule and the way out; the command line prints it
    without a traceback and exits with status 2.
    """


def listed(names: list[str], most: int = 8, total: int | None = None) -> str:
    """Joins names for an error message and counts those it leaves out.

    Args:
        names: the names to list.
        most: how many names to show.
        total: how many there are, if `names` are only the first.
    """
    if not names:
        return "nothing"
    rest = (total or len(names)) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def reason(error: object) -> str:
    """Returns the first sentence of another library's error message."""
    text = str(error).strip() or type(error).__name__
    first = text.splitlines()[0].split(". ")[0].rstrip(".")
    return first if len(first) <= 200 else first[:200] + " ..."


def of_disk(error: OSError, elsewhere: str) -> str | None:
    """Describes a full disk or a path that cannot be used; None for other errors.

    Args:
        error: any error of the system.
        elsewhere: the way out besides fixing it, e.g. `write elsewhere`.
    """
    name = error.filename or "a file"  # a full disk is often reported without a name
    if error.errno in _NO_ROOM:
        return f"no space to write {name} ({error.strerror}). Free some space, or {elsewhere}."
    if error.errno in _NO_PLACE:
        fix = "Fix it or its permissions"
        return f"{name} cannot be used ({error.strerror}). {fix}, or {elsewhere}."
    return None


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Renames settings in the messages of `InputError`, where users know them by other names.

    Args:
        names: regular expressions, and what replaces their matches.
    """
    try:
        yield
    except InputError as error:
        message = str(error)
        for pattern, name in names.items():
            message = re.sub(pattern, name, message)
        raise InputError(message) from error


def require(holds: bool, setting: str, value: object, rule: str) -> None:
    """Checks that a setting follows its rule.

    Args:
        holds: whether the rule holds.
        setting: its key on the command line.
        value: the given value.
        rule: what it must be, and what to use instead.

    Raises:
        InputError: if the rule does not hold.
    """
    if not holds:
        raise InputError(f"{setting}={value} cannot be used: it must be {rule}.")


def require_number(
    setting: str,
    value: object,
    rule: str,
    least: float = -math.inf,
    most: float = math.inf,
    whole: bool = False,
) -> None:
    """Checks that an argument of a Python function is a number in a range; text is rejected.

    Args:
        setting: name of the argument.
        value: the given value.
        rule: what it must be, and what to use.
        least: smallest allowed value.
        most: largest allowed value.
        whole: whether it must be a whole number.

    Raises:
        InputError: if it is not.
    """
    number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    shown = repr(value) if isinstance(value, str) else value
    if isinstance(value, float) and not whole:
        shown = f"{value:g}"  # 2, as on the command line, not 2.0
    require(number and least <= float(value) <= most, setting, shown, rule)  # type: ignore[arg-type]
