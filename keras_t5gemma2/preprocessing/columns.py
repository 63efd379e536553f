"""Which columns of a data set are read, under which names, and what is said of the others."""

import difflib

from keras_t5gemma2.messages import shown, warn

KEYS = ("encoder_text", "images", "decoder_text")
LABEL = "label"
TEXT_KEYS = ("query", "document", "negative")  # of an embedder
TEACHER_KEYS = tuple(f"{key}_embedding" for key in TEXT_KEYS)
KEYS_OF_EMBEDDERS = TEXT_KEYS + TEACHER_KEYS
KEYS_OF_CLASSIFIERS = ("encoder_text", "images", LABEL)
# Instead of texts: whole dialogues, or what comes before an answer and the answer.
DIALOGUE_KEYS = ("messages", "prompt", "completion")


class Columns:
    """Finds the known columns among those of the data. What else there is, it says once.

    Args:
        renames: dict from the data's names of columns to known ones, or `None`.
        known: tuple of strings, the known names.

    Raises:
        TypeError: `renames` is no dict.
        ValueError: a new name is not known, or given to two columns.

    Example:

    >>> Columns({"question": "encoder_text"}).places(["question", "decoder_text"])
    {'encoder_text': 'question', 'decoder_text': 'decoder_text'}
    """

    def __init__(self, renames=None, known=KEYS):
        if renames is not None and not isinstance(renames, dict):
            raise TypeError(
                "`columns` must be a dict from names of the data to those that are read, such as "
                f'{{"question": "encoder_text"}}. Received: columns={shown(renames)}'
            )
        self.known, self.renames = known, dict(renames or {})
        given = list(self.renames.values())
        for name in given:
            if name not in (*known, *DIALOGUE_KEYS):
                raise ValueError(
                    f"`columns` must rename to one of {known}. Received: {shown(name)}"
                    f"{_nearest(name, known)}"
                )
            if given.count(name) > 1:
                olds = [old for old, new in self.renames.items() if new == name]
                raise ValueError(
                    "`columns` must give each name to one column. Received: "
                    f"{shown(name)} for {shown(olds)}"
                )
        self._ignored, self._is_first, self._targets_are_noted = set(), True, False

    def places(self, names):
        """A dict from known names to those of the data, of the columns that are read.

        Args:
            names: list of the data's names of columns.

        Raises:
            ValueError: no column is known, one to be renamed is not there, or its new name is.
        """
        names = list(names)
        if self._is_first:
            self._check_renames(names)
        self._is_first = False
        renamed = {new: old for old, new in self.renames.items() if old in names}

        def found_of(keys):
            places = {key: renamed.get(key, key) for key in keys}
            return {key: name for key, name in places.items() if name in names}

        found = found_of(self.known)
        if not found.keys() - {"images"}:  # no texts
            found |= found_of(DIALOGUE_KEYS)
        if not found and names:
            raise ValueError(
                f"An input must hold one of {self.known}. Received: {shown(names)}. "
                f"{self._advice(names)}"
            )
        self._note([name for name in names if name not in found.values()], found)
        return found

    def check_is_not_needed(self):
        """Raises a `ValueError` if columns shall be renamed where there are none."""
        if self.renames:
            raise ValueError(
                "`columns` renames what has names: a dict, a list of dicts or a table. Received: "
                f"columns={shown(self.renames)}, and texts without names"
            )

    def note_targets(self):
        """Says once that the targets of a data set of (x, y) are not read."""
        if not self._targets_are_noted:
            self._targets_are_noted = True
            warn(
                "The targets `y` of a data set of (x, y) are not read here. What the decoder shall "
                "continue belongs into `decoder_text` of x"
            )

    def _check_renames(self, names):
        for old, new in self.renames.items():
            if old not in names:
                raise ValueError(
                    f"`columns` must rename columns that there are: {shown(names)}. Received: "
                    f"columns={shown(self.renames)}{_nearest(old, names)}"
                )
            if old != new and new in names and new not in self.renames:
                raise ValueError(
                    f"`columns` must rename to a name that no other column has. Received: "
                    f"{shown(old)} to be renamed to {shown(new)}, beside a column {shown(new)}"
                )

    def _note(self, ignored, found):
        ignored = [name for name in ignored if name not in self._ignored]
        if not ignored:
            return
        self._ignored.update(ignored)
        free = [key for key in self.known if key not in found]
        near = "".join(_nearest(name, free, f" for {shown(name)}") for name in ignored)
        warn(
            f"Not read, since their names are not among {self.known}: the columns "
            f"{shown(ignored, limit=400)}{near}. To read one, rename it: "
            '`columns={"its name": "encoder_text"}`'
        )

    def _advice(self, names):
        texts = [name for name in names if isinstance(name, str)]
        pairs = [(_likeness(name, key), name, key) for name in texts for key in self.known]
        if not pairs:
            return f"Rename columns: `columns={{...: {shown(self.known[0])}}}`"
        _, name, key = max(pairs)
        return (
            f"The nearest is {shown(name)} to {shown(key)}: rename it, or say "
            f"`columns={{{shown(name)}: {shown(key)}}}`"
        )


def _nearest(name, names, of=""):
    near = difflib.get_close_matches(str(name), [str(n) for n in names], n=1)
    return f"; did you mean {shown(near[0])}{of}?" if near else ""


def _likeness(one, two):
    return difflib.SequenceMatcher(None, one.lower(), two.lower()).ratio()
