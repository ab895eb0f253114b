"""Runs `python -m bloodcell`."""

from bloodcell.cli.main import main

if __name__ == "__main__":
    main()
