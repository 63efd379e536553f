"""How close generated texts are to their references, each metric from 0 to 100."""

import functools
import importlib
import inspect
import types
import unicodedata

import numpy as np

from keras_t5gemma2.messages import shown

# Of `metric_functions`, in the order of a table's columns.
METRICS = ("exact_match", "chrf", "bleu", "rouge", "anls")


def metric_functions(names, bleu_tokenizer="13a", rouge_tokenizer=None):
    """The metrics of these names, with their libraries imported.

    Args:
        names: list of names among `METRICS`, and of functions of `(predictions, references)`
            that give a number or a dict of numbers. What takes `predictions` and `references` by
            these names gets them so, as the `compute` of a metric of `evaluate` wants.
        bleu_tokenizer: string. sacrebleu's `tokenize`: "13a" for languages that put spaces
            between words; "zh", "ja-mecab", "ko-mecab", "char" or "flores200" for those that
            do not.
        rouge_tokenizer: function that gives the list of tokens of a string. By default, words of
            letters, marks and digits of any script, in lower case: what rouge-score itself takes
            in ASCII text. It drops all other letters.

    Returns:
        A list of functions of `(predictions, references)`, a list of strings and a list of lists
        of strings, that give a dict of floats by name. ROUGE is three: the F-measures `rouge1`,
        `rouge2` and `rougeL`.

    Raises:
        ValueError: if a name is unknown, or two metrics have one name.
        ImportError: if a metric's library is not installed.

    Example:

    >>> (exact_match,) = metric_functions(["exact_match"])
    >>> exact_match(["two", "3"], [["two"], ["three", "drei"]])
    {'exact_match': 50.0}
    """
    names = [names] if isinstance(names, str) or callable(names) else list(names)
    unknown = [name for name in names if not callable(name) and name not in METRICS]
    if unknown or not names:
        raise ValueError(
            f"`metrics` must be names among {METRICS}, or functions of (predictions, references). "
            f"Received: metrics={shown(names)}"
        )
    titles = [_title(name) if callable(name) else name for name in names]
    if twice := [title for title in dict.fromkeys(titles) if titles.count(title) > 1]:
        raise ValueError(f"`metrics` must have different names. Received several times: {twice}")
    makers = {
        "exact_match": lambda: _exact_match,
        "chrf": _chrf,
        "bleu": lambda: _bleu(bleu_tokenizer),
        "rouge": lambda: _rouge(rouge_tokenizer or words),
        "anls": lambda: _anls,
    }
    return [_of_the_user(name) if callable(name) else makers[name]() for name in names]


def anls(prediction, references, threshold=0.5):
    """The normalized Levenshtein similarity to the nearest reference, 0 to 1.

    As Biten et al. (2019) define it: 1 less the number of edits over the longer text's length,
    and 0 where that ratio is not below the threshold. Case and runs of whitespace do not count.

    >>> anls("Lisboa", ["lisbon", "lissabon"])
    0.8333333333333334
    >>> anls("Porto", ["lisbon"])
    0.0
    """
    return max(_similarity(_folded(prediction), _folded(r), threshold) for r in references)


def words(text):
    """Runs of letters, marks and digits of any script, in lower case.

    >>> words("Déjà-vu: 3 हिन्दी")
    ['déjà', 'vu', '3', 'हिन्दी']
    """
    kept = (c if unicodedata.category(c)[0] in "LMN" else " " for c in text.lower())
    return "".join(kept).split()


def _of_the_user(function):
    """A dict of floats of what a function gives, by its name or those in its dict."""
    title = _title(function)
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of what is not written in Python
        parameters = {}
    by_name = {"predictions", "references"} <= set(parameters)

    def metric(predictions, references):
        arguments = {"predictions": predictions, "references": references}
        try:
            found = function(**arguments) if by_name else function(predictions, references)
        except Exception as error:
            error.add_note(f"In the metric {shown(title)}")
            raise
        found = found if isinstance(found, dict) else {title: found}
        return {str(name): _number(value, title) for name, value in found.items()}

    return metric


def _title(function):
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.ismethod(function) and function.__name__ in ("compute", "__call__"):
        function = function.__self__
    name = getattr(function, "__name__", None) or getattr(function, "name", None)
    return name if isinstance(name, str) else type(function).__name__


def _number(value, title):
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"A metric must give a number or a dict of numbers. Received from {shown(title)}: "
            f"{shown(value)} (type {type(value)})"
        ) from error


def _exact_match(predictions, references):
    exact = [text in right for text, right in zip(predictions, references, strict=True)]
    return {"exact_match": 100 * float(np.mean(exact))}


def _anls(predictions, references):
    scores = [anls(*pair) for pair in zip(predictions, references, strict=True)]
    return {"anls": 100 * float(np.mean(scores))}


def _chrf():
    scorer = _library("sacrebleu", "chrf").CHRF()
    return lambda p, r: {"chrf": scorer.corpus_score(p, _streams(r)).score}


def _bleu(tokenizer):
    scorer = _library("sacrebleu", "bleu").BLEU(tokenize=tokenizer)
    return lambda p, r: {"bleu": scorer.corpus_score(p, _streams(r)).score}


def _rouge(tokenizer):
    names = ["rouge1", "rouge2", "rougeL"]
    tokenizer = types.SimpleNamespace(tokenize=tokenizer)
    scorer = _library("rouge_score.rouge_scorer", "rouge").RougeScorer(names, tokenizer=tokenizer)

    def rouge(predictions, references):
        rows = [
            scorer.score_multi(targets, prediction)
            for prediction, targets in zip(predictions, references, strict=True)
        ]
        return {name: 100 * float(np.mean([row[name].fmeasure for row in rows])) for name in names}

    return rouge


def _library(module, metric):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'The metric "{metric}" needs {module.split(".")[0]}: install it by '
            "`pip install 'keras-t5gemma2[evaluation]'`, or leave the metric out of `metrics`"
        ) from error


def _streams(references):
    """sacrebleu's form: the first reference of every row, the second of every row, ..."""
    most = max(len(row) for row in references)
    # It leaves out what is `None`.
    return [[row[n] if n < len(row) else None for row in references] for n in range(most)]


def _folded(text):
    return " ".join(text.lower().split())


def _similarity(one, two, threshold):
    distance = edit_distance(one, two) / max(len(one), len(two), 1)
    return 1 - distance if distance < threshold else 0.0


def edit_distance(one, two):
    """The fewest insertions, deletions and replacements that make one sequence the other.

    That is Levenshtein's distance, a row of its table at a time.

    Args:
        one: string, or list of integers.
        two: as `one`.

    >>> edit_distance("kitten", "sitting"), edit_distance([1, 2, 3], [2, 3])
    (3, 1)
    """
    one, two = ([ord(x) if isinstance(x, str) else x for x in each] for each in (one, two))
    places = np.arange(len(two) + 1)
    row, two = places, np.array(two, "int64")
    for number, value in enumerate(one, start=1):
        changed = np.minimum(row[1:] + 1, row[:-1] + (two != value))
        below = np.concatenate([[number], changed])
        # Any number of insertions: the least over all places to the left, plus the way from there.
        row = np.minimum.accumulate(below - places) + places
    return int(row[-1])
