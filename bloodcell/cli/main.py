"""The front door: answers at once what can be answered at once, and hands on the rest.

python -m bloodcell fit --config d8.yaml
"""

import difflib
import io
import os
import sys
from collections.abc import Sequence

from bloodcell import __version__
from bloodcell.errors import BAD_INPUT, NO_PLACE, NO_ROOM, InputError

_OTHER_WORDS = {
    "train": "fit",
    "run": "fit",
    "eval": "test",
    "evaluate": "test",
    "val": "validate",
    "speed": "benchmark",
    "classify": "predict",
    "infer": "predict",
    "inference": "predict",
}
STOPPED = 130  # exit status, as shells have it for Ctrl-C


def main(args: Sequence[str] | None = None) -> None:
    """Runs a verb.

    Args:
        args: words after `bloodcell`; None takes them from the command line.

    Raises:
        SystemExit: with status 2 and a message if what was given cannot be used.
    """
    words = list(sys.argv[1:] if args is None else args)
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may hold what no console can show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _run(words)
    except InputError as error:
        print(f"bloodcell: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print("\nbloodcell: stopped.", file=sys.stderr)
        sys.exit(STOPPED)
    except BrokenPipeError:  # the reader of a pipe, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in (*NO_PLACE, *NO_ROOM):
            raise
        print(
            f"bloodcell: {error.filename}: {error.strerror}. Mend it, or give another.",
            file=sys.stderr,
        )
        sys.exit(BAD_INPUT)


def _run(words: list[str]) -> None:
    from bloodcell.cli import manual, verbs

    if words in (["--version"], ["-V"]):
        print(f"bloodcell {__version__}")
        return
    if words[:1] == ["help"] and words[1:]:
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(manual.front_page())
        if not words:
            sys.exit(BAD_INPUT)
        return
    verb = words[0]
    if verb not in manual.VERBS:
        raise InputError(_no_such_verb(verb, list(manual.VERBS)))
    if "-h" in words or "--help" in words:
        print(manual.verb_page(verb))
    elif verbs.is_alone(verb):
        if not verbs.run(verb, words[1:]):
            sys.exit(1)
    elif verb == "reproduce":
        from bloodcell.published.reproduce import reproduce

        reproduce(words[1:])
    else:
        from bloodcell.cli import run as cli

        cli.run(verb, ["--help" if word == "--help-all" else word for word in words[1:]])


def _no_such_verb(verb: str, verbs: list[str]) -> str:
    if verb.startswith("-"):
        return f"'{verb}' stands where a verb is expected. Put one before it: {', '.join(verbs)}."
    near = difflib.get_close_matches(verb, verbs, n=1, cutoff=0.5)
    meant = _OTHER_WORDS.get(verb) or (near[0] if near else None)
    hint = f"Did you mean '{meant}'? " if meant else ""
    return f"no verb '{verb}'. {hint}Verbs: {', '.join(verbs)}."
