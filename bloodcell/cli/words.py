"""The words of a command line."""

import difflib
from collections.abc import Sequence
from typing import NamedTuple, Self

from bloodcell.errors import InputError, require


class Options(NamedTuple):
    """The words of a verb, sorted.

    Attributes:
        words: those that belong to no option.
        values: of the options that were given, by flag; empty for a flag without a value.
    """

    words: list[str]
    values: dict[str, str]

    @classmethod
    def read(
        cls, verb: str, words: Sequence[str], valued: Sequence[str], flags: Sequence[str] = ()
    ) -> Self:
        """Sorts the words of a verb.

        Args:
            verb: which.
            words: what stands after it.
            valued: options with a value.
            flags: options without.

        Raises:
            InputError: naming what it does not take.
        """
        rest, values = list(words), {}
        for flag in valued:
            rest, value = split_off(rest, flag)
            if value is not None:
                values[flag] = value
        values |= dict.fromkeys((word for word in rest if word in flags), "")
        rest = [word for word in rest if word not in flags]
        known = (*valued, *flags)
        unknown = [word for word in rest if word.startswith("-") and word != "-"]
        if unknown:
            near = difflib.get_close_matches(unknown[0].partition("=")[0], known, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            takes = ", ".join(known) or "no options"
            raise InputError(f"{verb} takes {takes} (got: {' '.join(unknown)}).{hint}")
        return cls(rest, values)

    def has(self, flag: str) -> bool:
        """Whether a flag was given."""
        return flag in self.values

    def get(self, flag: str) -> str | None:
        """What was given; None if nothing was."""
        return self.values.get(flag)

    def number(self, flag: str, default: float, low: float, high: float) -> float:
        """A number that was given.

        Raises:
            InputError: if it is none, or out of its range.
        """
        said = self.values.get(flag)
        if said is None:
            return default
        try:
            value = float(said)
        except ValueError:
            value = float("nan")
        require(low <= value <= high, flag, said, f"a number from {low:g} to {high:g}")
        return value

    def whole(self, flag: str, default: int, least: int = 1) -> int:
        """A whole number that was given, `least` or more.

        Raises:
            InputError: if it is none.
        """
        said = self.values.get(flag)
        if said is None:
            return default
        value = int(said) if said.isdecimal() else -1
        require(value >= least, flag, said, f"a whole number, {least} or more")
        return value


def split_off(words: list[str], flag: str) -> tuple[list[str], str | None]:
    """Takes a flag and its value out of the words.

    Args:
        words: what stands on the command line.
        flag: e.g. `--out`, followed by its value or by `=` and its value.

    Returns:
        The other words, and the last value that the flag is given; None if it is given none.

    Raises:
        InputError: if the flag stands last, without a value.
    """
    rest, value = [], None
    coming = iter(words)
    for word in coming:
        name, equals, text = word.partition("=")
        if name != flag:
            rest.append(word)
            continue
        value = text if equals else next(coming, None)
        if not value:
            raise InputError(f"{flag} stands without a value. See `bloodcell VERB --help`.")
    return rest, value
