"""The command line: finds the verb, calls its function, and turns errors into exit statuses.

python -m bloodcell fit --config d8.yaml
"""

import difflib
import io
import os
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from bloodcell import __version__
from bloodcell.errors import BAD_INPUT, NO_PLACE, NO_ROOM, InputError, require

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
        SystemExit: with status 2 and a message if an input cannot be used.
    """
    words = list(sys.argv[1:] if args is None else args)
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may hold what no console can show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _answer(words)
    except InputError as error:
        print(f"bloodcell: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print("\nbloodcell: stopped.", file=sys.stderr)
        sys.exit(STOPPED)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has read enough
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


def _answer(words: list[str]) -> None:
    from bloodcell.cli.arguments import VERBS
    from bloodcell.cli.parsing import front_page, parse, verb_page

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
    good = _train(verb, rest) if VERBS[verb].groups else _call(verb, *parse(verb, rest))
    if not good:
        sys.exit(1)


def _train(verb: str, words: list[str]) -> bool:
    """Checks the settings of a verb that needs LightningCLI; only then imports and runs it."""
    from bloodcell.cli.configs import read_request

    if verb != "verify":
        request = read_request(verb, words)
        from bloodcell.cli.training import run

        return run(request)
    if not words or words[0].startswith("-"):
        raise InputError("verify needs a run folder first, e.g. lightning_logs/d8/version_0.")
    request = read_request("test", words[1:])
    rule = "left out: verify tests the run's best checkpoint"
    require(request.ckpt_path is None, "--ckpt_path", request.ckpt_path, rule)
    from bloodcell.cli.verify import verify

    return verify(Path(words[0]), request)


def _call(verb: str, given: Namespace, rest: list[str]) -> bool:
    """Calls the function of a verb that has no settings; returns whether all went well."""
    match verb:
        case "audit":
            from bloodcell.audit.audit import audit

            if len(given.folder) != 1:
                words = " ".join(given.folder) or "none"
                raise InputError(f"audit takes one folder or .zip (got: {words}).")
            tables = (given.photos, given.out, given.write_photos, given.labels)
            return not audit(given.folder[0], *tables)
        case "cache":
            _cache(given.empty)
        case "compare":
            from bloodcell.evaluate.compare import compare

            compare(given.runs, given.out)
        case "download":
            from bloodcell.datasets import kaggle

            print(kaggle.download())
        case "explain":
            from bloodcell.infer.explain import explain

            return explain(given.images, given.model, given.out)
        case "export":
            from bloodcell.infer.export import export

            export(given.images, given.model, given.out, given.int8)
        case "predict":
            return _predict(given)
        case "reproduce":
            from bloodcell.published.reproduce import reproduce

            reproduce(**vars(given), words=rest)
        case "serve":
            from bloodcell.serve.serve import serve

            return serve(given.model, given.host, given.port, given.data)
    return True


def _predict(given: Namespace) -> bool:
    from bloodcell.infer.cells import Cells
    from bloodcell.infer.predict import predict

    for flag, value in (("--field", given.field), ("--draw", given.draw)):
        if value is not None and not given.cells:
            raise InputError(f"{flag} {value} is for --cells. Add it, or leave {flag} out.")
    cells = Cells(given.field or 1.0, Path(given.draw) if given.draw else None)
    return predict(
        given.images,
        model=given.model,
        out=given.out,
        abstain=given.abstain,
        tta=given.tta,
        batch_size=given.batch_size,
        devices=given.devices,
        cells=cells if given.cells else None,
    )


def _cache(empty: bool) -> None:
    """Lists the decoded images on disk, a line for each entry, or deletes them."""
    from bloodcell.data import cache
    from bloodcell.files import cache_folder

    folder = cache_folder() / "pixels"
    if empty:
        print(f"{cache.empty() / 2**30:.2f} GiB freed in {folder}")
        return
    print(f"decoded images in {folder}:")
    entries = cache.list_entries()
    for entry in entries:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        size = f"{entry.bytes / 2**30:7.2f} GiB  {entry.images:>9,} images at {entry.size} px"
        print(f"{size}  used {used}  {entry.root}")
    if not entries:
        print("  none")


def _no_such_verb(verb: str, verbs: list[str]) -> str:
    if verb.startswith("-"):
        return f"'{verb}' stands where a verb is expected. Put one before it: {', '.join(verbs)}."
    near = difflib.get_close_matches(verb, verbs, n=1, cutoff=0.5)
    meant = _OTHER_WORDS.get(verb) or (near[0] if near else None)
    hint = f"Did you mean '{meant}'? " if meant else ""
    return f"no verb '{verb}'. {hint}Verbs: {', '.join(verbs)}."
