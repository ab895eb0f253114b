"""Starts runs that can be killed: a process that has imported everything forks one for each line.

A line on standard input is JSON: `folder` to work in, `words` of the command line, `log` for what
is said, `ranks`: variables of each process, and `trap`, where one shall send itself the signal
`number`: module, name, nth call, whether half of what it writes is there by then, and in which
rank; or null. A line on standard output has the numbers of the processes, the next their exit
statuses, or minus the signal.
"""

import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any


def serve() -> None:
    from bloodcell.cli import training  # noqa: F401  imported once, before the forks
    from bloodcell.train import finish

    if "--without-figures" in sys.argv:  # a second for each run
        finish.draw_figures = lambda *_: None
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        ranks, trap, number = order.pop("ranks"), order.pop("trap"), order.pop("number")
        children = []
        for place, variables in enumerate(ranks):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of forking: no thread of ours is at work
                child = os.fork()
            if child == 0:
                os.environ |= variables
                if trap and trap[4] == place:
                    module, name, nth, half, _ = trap
                    _set(module, name, nth, half, number)
                _run(**order)
            children.append(child)
        print(json.dumps(children), flush=True)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(statuses), flush=True)


def _run(folder: str, words: list[str], log: str) -> None:
    from bloodcell.cli.main import main

    os.chdir(folder)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    status = 0
    try:
        main(words)
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    os._exit(status)


def _set(module: str, name: str, nth: int, half: bool, number: int) -> None:
    """Sends a signal in the n-th call of a function; SIGKILL makes it the last of the process."""
    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    function: Callable[..., Any] = getattr(owner, last)
    calls = 0

    def trapped(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != nth:
            return function(*args, **options)
        if half:
            function(*args, **options)
            path = next(Path(one) for one in reversed(args) if isinstance(one, str | Path))
            os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), number)
        return function(*args, **options)

    setattr(owner, last, trapped)


if __name__ == "__main__":
    serve()
