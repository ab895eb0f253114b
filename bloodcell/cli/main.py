"""The command line: finds the verb, calls its function, and turns errors into exit statuses.

python -m bloodcell fit --config d8.yaml
"""

import contextlib
import difflib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bloodcell import __version__
from bloodcell.errors import BAD_INPUT, InputError, of_disk, require
from bloodcell.memory import is_full, use_huge_pages

_SYNONYMS = {
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
STOPPED = 130  # the exit status that shells report after Ctrl-C


def main(args: Sequence[str] | None = None) -> None:
    """Runs a verb.

    Args:
        args: the words after `bloodcell`; None reads them from the command line.

    Raises:
        SystemExit: with status 2 and a message if an input cannot be used.
    """
    words = list(sys.argv[1:] if args is None else args)
    if isinstance(sys.stdout, io.TextIOWrapper):  # consoles cannot show every file name
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _flushed():
            _dispatch(words)
    except InputError as error:
        print(f"bloodcell: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print("\nbloodcell: stopped.", file=sys.stderr)
        sys.exit(STOPPED)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has read enough
        _drop_output()
        sys.exit(1)
    except OSError as error:
        message = of_disk(error, "give another place")
        if message is None:
            raise
        print(f"bloodcell: {message}", file=sys.stderr)
        _drop_output()
        sys.exit(BAD_INPUT)


def _drop_output() -> None:
    """Drops what is still to be written, which would fail once more at the end."""
    with contextlib.suppress(OSError):  # it is not a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _flushed() -> Iterator[None]:
    """Writes what was printed while its errors can still be handled."""
    try:
        yield
    except SystemExit:
        print(end="", flush=True)
        raise
    print(end="", flush=True)


def _dispatch(words: list[str]) -> None:
    from bloodcell.cli.arguments import VERBS, Training
    from bloodcell.cli.parsing import front_page, verb_page

    if words in (["--version"], ["-V"]):
        print(f"bloodcell {__version__}")
        return
    if words[:1] == ["help"] and words[1:]:
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(front_page())
        if not words:
            sys.exit(BAD_INPUT)
        return
    verb, *rest = words
    if verb not in VERBS:
        raise InputError(_no_such_verb(verb, list(VERBS)))
    if "-h" in rest or "--help" in rest:
        print(verb_page(verb))
        return
    good = _train(verb, rest) if isinstance(VERBS[verb], Training) else _call(verb, rest)
    if not good:
        sys.exit(1)


def _train(verb: str, words: list[str]) -> bool:
    """Checks the settings of a verb that needs LightningCLI; only then imports and runs it."""
    from bloodcell.cli.configs import read_request

    use_huge_pages()
    if verb != "verify":
        request = read_request(verb, words)
        from bloodcell.cli.training import run

        return run(request)
    if not words or words[0].startswith("-"):
        raise InputError(
            "verify needs a run folder as its first argument, e.g. lightning_logs/d8/version_0."
        )
    request = read_request("test", words[1:])
    rule = "omitted, because verify tests the run's best checkpoint"
    require(request.ckpt_path is None, "--ckpt_path", request.ckpt_path, rule)
    from bloodcell.cli.verify import verify

    return verify(Path(words[0]), request)


def _call(verb: str, words: list[str]) -> bool:
    """Calls the function of a verb; returns whether it succeeded.

    Raises:
        InputError: if an argument cannot be used, or the memory runs out.
    """
    from bloodcell.cli.arguments import VERBS, Function
    from bloodcell.cli.parsing import WORDS, parse

    given, rest = parse(verb, words)
    function = VERBS[verb]
    assert isinstance(function, Function)
    known = function.read(verb).settings
    arguments = vars(given) | ({WORDS: rest} if WORDS in known else {})
    try:
        return function.call(verb, arguments) is not False
    except Exception as error:  # each library has its own class for memory that runs out
        if isinstance(error, InputError) or not is_full(error):
            raise
        fix = "Close other programs, or hide the GPU: CUDA_VISIBLE_DEVICES= bloodcell ..."
        if "batch_size" in known:
            fix = "Give a smaller --batch_size, or --devices cpu if a GPU was used."
        raise InputError(f"{verb} ran out of memory. {fix}") from error


def _no_such_verb(verb: str, verbs: list[str]) -> str:
    if verb.startswith("-"):
        return f"expected a verb before '{verb}'. Verbs: {', '.join(verbs)}."
    near = difflib.get_close_matches(verb, verbs, n=1, cutoff=0.5)
    meant = _SYNONYMS.get(verb) or (near[0] if near else None)
    hint = f"Did you mean '{meant}'? " if meant else ""
    return f"no verb '{verb}'. {hint}Verbs: {', '.join(verbs)}."
