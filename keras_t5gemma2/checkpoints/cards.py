"""The README and the notice that go with files of weights that are shared."""

import dataclasses
import hashlib
import pathlib

from keras_t5gemma2.checkpoints.sources import is_of_gemma, license_of
from keras_t5gemma2.files.disk import local_path
from keras_t5gemma2.messages import warn

README_FILE, NOTICE_FILE = "README.md", "NOTICE"
# Section 3.1 of the terms asks for a text file with this sentence.
GEMMA_NOTICE = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at "
    "ai.google.dev/gemma/terms"
)
_GEMMA_LICENSE = (
    "The weights derive from Gemma. They are provided under and subject to the "
    "[Gemma Terms of Use](https://ai.google.dev/gemma/terms), whose "
    "[restrictions on use](https://ai.google.dev/gemma/prohibited_use_policy) hold for everybody "
    "who gets them. The files were written anew, and the weights may have been trained further: "
    "they are not those that Google published."
)
# The last line of a README. What stands above it is as it was written if it has this hash.
_MARK = "<!-- Written by keras_t5gemma2, which writes it anew only while nothing is changed: "


@dataclasses.dataclass(frozen=True)
class Card:
    """The content of a README.

    Args:
        title: string.
        what: string, a sentence about the files.
        usage: string, lines of Python that load them.
        library: string, as Hugging Face names libraries.
        source: as `T5Gemma2Backbone` has it.
        tags: tuple of strings.
        pipeline: string, as Hugging Face names tasks, or `None`.
        metrics: dict of numbers by name, of the last epoch of training.
    """

    title: str
    what: str
    usage: str
    library: str
    source: str | None
    tags: tuple = ()
    pipeline: str | None = None
    metrics: dict = dataclasses.field(default_factory=dict)

    def text(self):
        """The README, in Markdown with the metadata of Hugging Face before it."""
        parts = [
            self._front_matter(),
            f"# {self.title}",
            self.what + (f" {_base(self.source)}" if self.source else ""),
            f"```python\n{self.usage}\n```",
            *self._training(),
            f"## Licence\n\n{self._license()}",
        ]
        return _marked("\n\n".join(parts) + "\n")

    def _front_matter(self):
        lines = [f"library_name: {self.library}", f"license: {license_of(self.source)}"]
        if self.source not in (None, "unknown"):
            lines.append(f"base_model: {self.source}")
        if self.pipeline is not None:
            lines.append(f"pipeline_tag: {self.pipeline}")
        lines += ["tags:", *(f"- {tag}" for tag in ("t5gemma2", "keras", *self.tags))]
        return "\n".join(["---", *lines, "---"])

    def _training(self):
        if not self.metrics:
            return []
        rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in self.metrics.items())
        return [f"## Training\n\nThe last epoch of `fit`:\n\n| metric | value |\n|---|---|\n{rows}"]

    def _license(self):
        if is_of_gemma(self.source):
            return f"{_GEMMA_LICENSE}\n\n{GEMMA_NOTICE}"
        if license_of(self.source) == "unknown":
            return "Whoever shares these weights chooses the licence, and writes it here."
        return f"{license_of(self.source)}, as the model that these weights derive from."


def write_card(directory, card, place=None):
    """Writes the README and, for weights that derive from Gemma, the notice.

    A README that somebody has edited, or written, stays as it is, with a warning.

    Args:
        directory: path of the directory that is written.
        card: `Card`.
        place: path of the directory that its files go to in the end; by default the same.
    """
    directory = pathlib.Path(directory)
    place = directory if place is None else local_path(place)
    if may_write(place / README_FILE):
        (directory / README_FILE).write_text(card.text(), encoding="utf-8")
    else:
        (directory / README_FILE).unlink(missing_ok=True)
    if is_of_gemma(card.source):
        text = _read(place / NOTICE_FILE)
        if GEMMA_NOTICE not in text:
            text = f"{text.rstrip()}\n\n{GEMMA_NOTICE}\n" if text.strip() else f"{GEMMA_NOTICE}\n"
        # Also where it stays as it is: a part of the model may have written one of its own.
        (directory / NOTICE_FILE).write_text(text, encoding="utf-8")


def write_card_beside(path, card):
    """As `write_card`, for a single file: a text of the same name that ends in `.md`."""
    path = local_path(path).with_suffix(".md")
    if may_write(path):
        path.write_text(card.text(), encoding="utf-8")


def may_write(path, name=None):
    """Whether no README is at `path`, or one that is as it was written; otherwise warns.

    Args:
        path: `pathlib.Path`.
        name: string, what the warning calls it; by default its path.
    """
    if not path.exists() or is_as_written(_read(path)):
        return True
    warn(
        f"{name or path} has been edited, or was not written by this package, and stays as it "
        "is. It may no longer fit what is saved beside it: delete it to have it written anew"
    )
    return False


def is_as_written(text):
    """Whether a README is one of `Card.text`, to the letter.

    >>> text = Card("French", "An adapter.", "load()", "keras_t5gemma2", None).text()
    >>> is_as_written(text), is_as_written(text.replace("French", "Dutch")), is_as_written("")
    (True, False, False)
    """
    content, mark, _ = text.rpartition(_MARK)
    return bool(mark) and _marked(content) == text


def _marked(content):
    digest = hashlib.sha256(content.rstrip().encode()).hexdigest()[:16]
    return f"{content.rstrip()}\n\n{_MARK}{digest} -->\n"


def _base(source):
    if source == "unknown":
        return "What the weights derive from is not recorded; they are taken to derive from Gemma."
    return f"The weights derive from `{source}`."


def _read(path):
    if not path.is_file():
        return ""
    return path.read_bytes().decode("utf-8", errors="replace").replace("\r\n", "\n")
