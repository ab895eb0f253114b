"""The words of a command line."""

from bloodcell.errors import InputError


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
