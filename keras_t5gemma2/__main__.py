"""`python -m keras_t5gemma2` is the command `t5gemma2`."""

import sys

from t5gemma2_cli import main

if __name__ == "__main__":
    # Importing this package has chosen a backend before `--backend` was read.
    sys.exit(main(restarts=True))
