"""How often tokens are used: in texts, and in the words of languages."""

import collections

from keras_t5gemma2.messages import shown, shown_names
from keras_t5gemma2.preprocessing.chat_template import rows_as_text
from keras_t5gemma2.preprocessing.columns import Columns
from keras_t5gemma2.preprocessing.dialogues import Dialogue
from keras_t5gemma2.preprocessing.rows import targets_of
from keras_t5gemma2.preprocessing.sources import read_rows
from keras_t5gemma2.vocabulary.marked_text import unmarked

_TEXTS_AT_A_TIME = 1024
# The most frequent words of a language, which cover nearly all of a text.
_WORDS = 40_000


def texts_in(inputs, columns=None, preprocessor=None):
    """All texts of rows, of both sides, as a list of strings; of dialogues those of a template.

    Args:
        inputs: rows as `fit` takes them: a string, a list of strings, a dict of `encoder_text`
            and `decoder_text`, and so on.
        columns: dict of new names of columns, or `None`.
        preprocessor: the one whose template dialogues are written by.
    """
    options = {"several_targets": True, "reads_y": True, "answers": True}
    rows, _ = read_rows(inputs, Columns(columns), **options)
    if any(isinstance(row.encoder_text, Dialogue) for row in rows):
        rows = rows_as_text(rows, preprocessor.template_in_use(), preprocessor.tokenizer)
    texts = [(row, text) for row in rows for text in (row.encoder_text, *targets_of(row)) if text]
    return [unmarked(text, row.mark) for row, text in texts]


def token_counts(vocabulary, texts, weights=None):
    """A `collections.Counter` of the ids of texts.

    Args:
        vocabulary: `Vocabulary`.
        texts: list of strings.
        weights: list of a number for each text, as often as which it counts; by default once.
    """
    counts = collections.Counter()
    for start in range(0, len(texts), _TEXTS_AT_A_TIME):
        part = slice(start, start + _TEXTS_AT_A_TIME)
        rows = vocabulary.encode(texts[part])
        if weights is None:
            for ids in rows:
                counts.update(ids)
            continue
        for ids, weight in zip(rows, weights[part], strict=True):
            for id in ids:
                counts[id] += weight
    return counts


def language_counts(vocabulary, languages):
    """A `collections.Counter` of the ids of the most frequent words of languages.

    The words, and how frequent each is, come from the `wordfreq` library. A word counts as it
    stands at the beginning of a text and behind a space, in small letters and with a capital one.

    Args:
        vocabulary: `Vocabulary`.
        languages: list of codes, such as `["en", "de"]`.

    Raises:
        ImportError: `wordfreq` is not installed.
        TypeError: `languages` is no list of strings.
        ValueError: `wordfreq` does not know a language.
    """
    counts = collections.Counter()
    for words in _frequencies(languages):
        total = sum(words.values())
        for form in (str, str.capitalize):
            for before in ("", " "):
                texts = [f"{before}{form(word)}" for word in words]
                weights = [frequency / total for frequency in words.values()]
                counts += token_counts(vocabulary, texts, weights)
    return counts


def _frequencies(languages):
    """For each language a dict of its most frequent words and how frequent they are."""
    if not isinstance(languages, (list, tuple)) or not all(isinstance(x, str) for x in languages):
        raise TypeError(
            '`languages` must be a list of codes, such as ["en", "de"]. Received: '
            f"languages={shown(languages)}"
        )
    try:
        import wordfreq
    except ImportError as error:
        raise ImportError(
            "`languages` needs the words of languages, which the wordfreq library has. Install "
            "it with `pip install keras-t5gemma2[languages]`, or give `texts` instead."
        ) from error
    known = sorted(wordfreq.available_languages())
    if unknown := [language for language in languages if language not in known]:
        raise ValueError(
            f"`languages` must be among {', '.join(known)}. Received: {shown_names(unknown)}. "
            "Give texts of another language as `texts`"
        )
    found = []
    for language in languages:
        words = wordfreq.top_n_list(language, _WORDS)
        all_words = wordfreq.get_frequency_dict(language, "best")
        found.append({word: all_words[word] for word in words})
    return found
