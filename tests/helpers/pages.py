"""Pages of documentation whose examples are run, from the first to the last.

Published weights are behind their terms: the embedded preset takes their place, with lengths that
the examples need.
"""

import contextlib
import io
import pathlib
import re
import warnings

import PIL.Image
from repository import ROOT
from sklearn.datasets import load_digits

TINY = '"t5gemma2_tiny", encoder_sequence_length=4096, decoder_sequence_length=512'
REPLACED = {
    '"t5gemma2_270m_270m", dtype="bfloat16"': TINY,
    '"t5gemma2_270m_270m", load_weights=False': f"{TINY}, load_weights=False",
    '"t5gemma2_1b_1b"': TINY,
    'from_gemma3("gemma-3-270m.gguf")': f"from_preset({TINY})",
}
# Need another process, several hosts or an account.
ELSEWHERE = ("KERAS_BACKEND", "keras.distribution.initialize", "push_to_hub", "openai.OpenAI(")
DOCUMENT = "The contract is between the buyer and the seller. " * 40


def examples_of(page):
    """The Python of a page, by its path from the root of the repository."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M)


class Reader:
    """Somebody who types one example of a page after another."""

    def __init__(self, page):
        self.names, self.read, self.examples = {}, [], examples_of(page)

    def run(self, words):
        """Runs the one example with these words in it, and gives what it prints.

        Errors if it writes anything to stderr but what compiles, or warns.
        """
        (number,) = (i for i, text in enumerate(self.examples) if words in text)
        text = self.examples[number]
        for published, embedded in REPLACED.items():
            text = text.replace(published, embedded)
        self.read.append(number)
        with contextlib.redirect_stdout(io.StringIO()) as printed, warnings.catch_warnings():
            warnings.filterwarnings("error", category=UserWarning)
            exec(compile(text, f"<example {number}>", "exec"), self.names)
        return printed.getvalue()

    def left(self):
        """The examples that were not run, and could be."""
        left = [text for i, text in enumerate(self.examples) if i not in self.read]
        return [text for text in left if not any(words in text for words in ELSEWHERE)]

    def __getitem__(self, name):
        return self.names[name]


def write_files():
    """The files that the examples read, into the current directory."""
    digits = load_digits()
    seven = digits.images[list(digits.target).index(7)]
    PIL.Image.fromarray((seven * 15.9).astype("uint8")).save("seven.png")
    PIL.Image.fromarray((seven.T * 15.9).astype("uint8")).save("cat.png")
    pathlib.Path("contract.txt").write_text(DOCUMENT)
