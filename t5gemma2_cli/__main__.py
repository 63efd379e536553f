"""`python -m t5gemma2_cli` is the command `t5gemma2`."""

import sys

from t5gemma2_cli import main

sys.exit(main())
