"""What a text must look like, for the argument `constraint` of `generate` and `stream`."""

from keras_t5gemma2.constraints.constraint import Constraint, choice, json_schema, regex
from keras_t5gemma2.constraints.grammars import Grammar, grammar

__all__ = ["Constraint", "Grammar", "choice", "grammar", "json_schema", "regex"]
