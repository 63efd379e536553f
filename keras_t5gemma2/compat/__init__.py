"""Private names of Keras and keras-hub that the package uses.

Nowhere else does a name with a leading underscore, or a path with `.src` in it, of another library
stand; what is private in torch stands in `kernels.compat`. Each function names the release
that it was checked with, and tests/compat/test_keras.py says which name a later release has
dropped.
"""
