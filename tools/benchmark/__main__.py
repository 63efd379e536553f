"""`python tools/benchmark` runs `main.py`."""

import main

main.main()
