"""Largest differences allowed between two ways to compute the same numbers."""

# Of numbers of size about 1.
TOLERANCE = {
    "float32": {"rtol": 1e-5, "atol": 1e-5},
    "bfloat16": {"rtol": 3e-2, "atol": 3e-2},
    "float16": {"rtol": 4e-3, "atol": 4e-3},
}
