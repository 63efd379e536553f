"""What a text must look like, for the argument `constraint` of `generate` and `stream`."""

from keras_t5gemma2.constraints.constraint import Constraint, choice, json_schema, regex

__all__ = ["Constraint", "choice", "json_schema", "regex"]
