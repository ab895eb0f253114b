"""The one exception that means: what was given cannot be used."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message names the setting, its value, the rule and the way out; the command line prints it
    without a traceback and exits with status 2.
    """


def listed(names: list[str], most: int = 8) -> str:
    """Joins names for an error message and counts those it leaves out.

    Args:
        names: what to list.
        most: how many names to show.
    """
    if not names:
        return "nothing"
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
