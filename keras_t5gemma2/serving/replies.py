"""Answers in OpenAI's form, whole and in pieces."""

import base64
import time
import uuid

import numpy as np

from keras_t5gemma2.generation.streaming import End as Cut
from keras_t5gemma2.generation.streaming import Writer
from keras_t5gemma2.vocabulary.token_bytes import token_bytes


class Spelling:
    """The text of single tokens.

    Args:
        tokenizer: `T5Gemma2Tokenizer`.

    Example:

    >>> tokenizer = keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")
    >>> spelling = Spelling(tokenizer)
    >>> spelling.of(715), spelling.of(1)
    (('seven', [115, 101, 118, 101, 110]), ('<eos>', [60, 101, 111, 115, 62]))
    """

    def __init__(self, tokenizer):
        self._vocabulary = tokenizer.loaded_vocabulary()
        special = set(tokenizer.special_token_ids)
        self._bytes = token_bytes(self._vocabulary, special, special)

    def of(self, id):
        """The text of a token, and its bytes: a token may be a part of a character."""
        data, lengths, _ = self._bytes
        found = bytes(data[id, : lengths[id]]) if id < len(lengths) else b""
        found = found or str(self._vocabulary.tokens[id]).encode()
        return found.decode("utf-8", errors="replace"), list(found)


class Text:
    """A text that comes token by token, up to the first of a few strings.

    Args:
        tokenizer: `T5Gemma2Tokenizer`.
        prompt: ids of the decoder's prompt, behind which the text stands.
        stop: tuple of strings.

    Attributes:
        count: int. Tokens so far.

    Example:

    >>> tokenizer = keras_t5gemma2.T5Gemma2Tokenizer.from_preset("t5gemma2_tiny")
    >>> text = Text(tokenizer, (), ("en",))
    >>> text.add([715]), text.finish(), text.count
    ('sev', '', 1)
    """

    def __init__(self, tokenizer, prompt, stop):
        self._writer, self._cut, self.count = Writer(tokenizer), Cut(stop), 0
        for id in prompt:
            self._writer.add(int(id))
        self._writer.finish()

    def add(self, ids):
        """The text that is final with these tokens, which may be none."""
        self.count += len(ids)
        return "".join(self._cut.add(self._writer.add(int(id))) for id in ids)

    def finish(self):
        """The rest of the text."""
        return self._cut.add(self._writer.finish()) + self._cut.finish()


class Replies:
    """The form of what one request gets.

    Args:
        kind: "completion" or "chat".
        model: string, the name of the model.
        spelling: `Spelling`, or `None` where no probabilities are wanted.

    Attributes:
        id: string.

    Example:

    >>> Replies("chat", "tiny").choice(0, "Hello!", [], "stop")["message"]["content"]
    'Hello!'
    """

    def __init__(self, kind, model, spelling=None):
        self._kind, self._model, self._spelling = kind, model, spelling
        self.id = ("chatcmpl-" if kind == "chat" else "cmpl-") + uuid.uuid4().hex
        self._created = int(time.time())

    def whole(self, choices, usage):
        """The body of an answer that is not streamed."""
        kind = "chat.completion" if self._kind == "chat" else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": usage}

    def piece(self, choices, usage=None):
        """One event of an answer that is streamed."""
        kind = "chat.completion.chunk" if self._kind == "chat" else "text_completion"
        found = {**self._head(kind), "choices": choices}
        return found if usage is None else {**found, "usage": usage}

    def choice(self, index, text, tokens, reason):
        """A text with all its tokens."""
        about = {"index": index, "logprobs": self._log_probs(tokens), "finish_reason": reason}
        if self._kind == "chat":
            return {**about, "message": {"role": "assistant", "content": text, "refusal": None}}
        return {**about, "text": text}

    def part(self, index, text, tokens, reason=None, is_first=False):
        """A part of a text."""
        about = {"index": index, "logprobs": self._log_probs(tokens), "finish_reason": reason}
        if self._kind != "chat":
            return {**about, "text": text}
        delta = {"role": "assistant"} if is_first else {}
        return {**about, "delta": {**delta, "content": text} if text or is_first else delta}

    def _head(self, kind):
        return {"id": self.id, "object": kind, "created": self._created, "model": self._model}

    def _log_probs(self, tokens):
        if self._spelling is None:
            return None
        if self._kind == "chat":
            return {"content": [self._of_chat(token) for token in tokens], "refusal": None}
        spell = lambda id: self._spelling.of(id)[0]  # noqa: E731
        return {
            "tokens": [spell(token.id) for token in tokens],
            "token_logprobs": [token.log_prob for token in tokens],
            "top_logprobs": [
                {spell(id): value for id, value in reversed(token.alternatives)} for token in tokens
            ],
            "text_offset": [],
        }

    def _of_chat(self, token):
        others = [self._spelled(id, value) for id, value in token.alternatives]
        return {**self._spelled(token.id, token.log_prob), "top_logprobs": others}

    def _spelled(self, id, value):
        text, data = self._spelling.of(id)
        return {"token": text, "logprob": value, "bytes": data}


def usage_of(read, written):
    """How many tokens were read and written.

    Example:

    >>> usage_of(7, 2)["total_tokens"]
    9
    """
    found = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    return found


def embeddings(vectors, form, model, read):
    """The body of an answer of /v1/embeddings.

    Args:
        vectors: (rows, dimensions) float32 array.
        form: "float" or "base64".
        model: string, the name of the model.
        read: int. Tokens that were read.

    Example:

    >>> embeddings(np.zeros((1, 2), "float32"), "base64", "tiny", 3)["data"][0]["embedding"]
    'AAAAAAAAAAA='
    """

    def written(vector):
        if form == "float":
            return [float(x) for x in vector]
        return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()

    rows = [
        {"object": "embedding", "index": n, "embedding": written(vector)}
        for n, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": read, "total_tokens": read}
    return {"object": "list", "data": rows, "model": model, "usage": usage}


def attention(found, model):
    """The body of an answer of /v1/attention.

    Args:
        found: `AttentionWeights`.
        model: string, the name of the model.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> body = attention(lm.attention("Spell 7 in Dutch.", "zeven"), "tiny")
    >>> len(body["weights"]) == len(body["tokens"])
    True
    """
    weights = np.round(np.asarray(found.encoder, "float64").mean(axis=(0, 1)), 4)
    return {
        "object": "attention",
        "model": model,
        "tokens": list(found.tokens),
        "encoder_tokens": list(found.encoder_tokens),
        "weights": weights.tolist(),
    }
