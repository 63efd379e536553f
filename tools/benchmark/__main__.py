"""`python tools/benchmark` is `t5gemma2 benchmark`; `--lengths 512 4096` may be said at once."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from t5gemma2_cli import main

_SEVERAL = ("works", "implementations", "backends", "dtypes", "lengths", "batches")


def one_by_one(arguments):
    """The arguments, with the name of an option before each of several values that follow it."""
    found, name = [], None
    for argument in arguments:
        if argument.startswith("--"):
            name, is_first = argument, True
        elif name and name[2:] in _SEVERAL:
            found += [] if is_first else [name]
            is_first = False
        found.append(argument)
    return found


if __name__ == "__main__":
    sys.exit(main(["benchmark", *one_by_one(sys.argv[1:])]))
