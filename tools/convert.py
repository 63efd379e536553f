"""`python tools/convert.py SOURCE TARGET` is `t5gemma2 convert SOURCE TARGET`."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from t5gemma2_cli import main as run_command


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_command(["convert", *map(str, arguments)])


if __name__ == "__main__":
    sys.exit(main())
