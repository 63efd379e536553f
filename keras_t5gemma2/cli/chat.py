"""A dialogue by lines: on the terminal, or of another program."""

import json
import sys

from keras_t5gemma2.cli import models
from keras_t5gemma2.files.disk import local_path
from keras_t5gemma2.messages import cause, shown
from keras_t5gemma2.preprocessing.read_image import read_image

_PROMPT = "> "


def run(
    out,
    preset,
    system=None,
    temperature=None,
    top_k=None,
    top_p=None,
    seed=None,
    max_new_tokens=None,
    as_json=False,
    quiet=False,
    **of_model,
):
    """Answers the messages of stdin, a line each, on `out`.

    Args:
        out: text file.
        preset: string.
        system: string, what the model is told before the first message, or `None`.
        temperature: float or `None`, as `models.sampler_of` has it; so have the next three.
        top_k: int or `None`.
        top_p: float or `None`.
        seed: int or `None`.
        max_new_tokens: int or `None`, of an answer.
        as_json: bool. Whether answers are lines of JSON, and messages may be.
        quiet: bool. Whether to say nothing of progress.
        **of_model: of `models.load`.
    """
    sampler = models.sampler_of(None, temperature, top_k, top_p, None, seed)
    lm = models.load(preset, **of_model)
    lm.compile(sampler=sampler)
    lm.preprocessor.template_in_use()  # an error before the first message where there is none
    options = {"max_new_tokens": max_new_tokens, "verbose": 0 if quiet else "auto"}
    talk = Talk(lm, system, options)
    is_terminal = sys.stdin.isatty()
    write = _as_json if as_json else _as_text
    for number, line in enumerate(_lines(is_terminal)):
        try:
            if is_terminal and line.startswith("/"):
                talk.obey(line)
            else:
                write(out, talk.answer(_message(line, number, as_json)), len(talk.answers))
        except (ValueError, TypeError, OSError) as error:
            if not is_terminal:
                raise
            print(f"error: {error}", file=sys.stderr, flush=True)


class Talk:
    """A dialogue with a model.

    Args:
        lm: `T5Gemma2Seq2SeqLM`.
        system: string or `None`.
        options: dict of options of `lm.chat`.

    Attributes:
        answers: list of the answers so far, those of earlier dialogues too.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> lm.compile(sampler="greedy")
    >>> talk = Talk(lm, None, {"max_new_tokens": 2, "verbose": 0})
    >>> text = "".join(talk.answer("Spell 7 in Dutch."))
    >>> [message["role"] for message in talk.messages], talk.answers == [text]
    (['user', 'assistant'], True)
    """

    def __init__(self, lm, system, options):
        self._lm, self._options, self.answers = lm, options, []
        self._first = [] if system is None else [{"role": "system", "content": system}]
        self._images = []
        self.begin()

    def begin(self):
        """Begins another dialogue."""
        self.messages = list(self._first)

    def answer(self, content):
        """Yields the pieces of the answer, which then is a part of the dialogue.

        Args:
            content: string or list of parts, of a message of the user; or a list of messages,
                which are another dialogue.
        """
        if isinstance(content, list) and content and "role" in content[0]:
            messages = content
        else:
            parts = [{"type": "image", "image": image} for image in self._images]
            if parts:
                content = [*parts, {"type": "text", "text": content}]
            messages = [*self.messages, {"role": "user", "content": content}]
        self._images, pieces = [], []  # also of a message that gets no answer: the next has none
        for piece in self._lm.chat(messages, stream=True, **self._options):
            pieces.append(piece)
            yield piece
        text = "".join(pieces)
        self.messages = [*messages, {"role": "assistant", "content": text}]
        self.answers.append(text)

    def obey(self, line):
        """Does what a line that begins with a slash says.

        Raises:
            ValueError: there is no such command, or no such image, or it cannot be read.
        """
        name, _, rest = line.partition(" ")
        if name == "/new" and not rest:
            self.begin()
        elif name == "/image" and local_path(rest.strip()).is_file():
            path = str(local_path(rest.strip()))
            read_image(path)  # an error here, and not with the message
            self._images.append(path)
        else:
            raise ValueError(
                "A line with a slash must be /new, or /image and the path of a file. Received: "
                f"{shown(line)}"
            )


# Lines ------------------------------------------------------------------------------------------


def _lines(is_terminal):
    """The lines of stdin as they come, those left out that are empty."""
    while True:
        if is_terminal:
            print(_PROMPT, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.rstrip("\n")


def _message(line, number, as_json):
    """The content of a message, or a list of messages."""
    if not as_json or line.lstrip()[0] not in '"{[':
        return line
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ValueError(
            "A line that begins like JSON must be JSON. Received: line "
            f"{number + 1} of stdin, {shown(line)}: {cause(error)}"
        ) from error
    if isinstance(found, dict) and set(found) <= {"role", "content"} and "content" in found:
        if found.get("role", "user") == "user":
            return found["content"]
    elif isinstance(found, str) or (
        isinstance(found, list) and all(isinstance(x, dict) and "role" in x for x in found)
    ):
        return found
    raise ValueError(
        'A line of JSON must be a string, a message of the user such as {"content": "Hello!"}, or '
        f"a list of messages with their roles. Received: line {number + 1} of stdin, {shown(line)}"
    )


# Answers ----------------------------------------------------------------------------------------


def _as_text(out, pieces, number):
    for piece in pieces:
        print(piece, end="", flush=True, file=out)
    print(flush=True, file=out)


def _as_json(out, pieces, number):
    line = {"index": number, "role": "assistant", "content": "".join(pieces)}
    print(json.dumps(line, ensure_ascii=False), flush=True, file=out)
