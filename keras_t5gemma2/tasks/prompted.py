"""Tasks that are a prompt: questions about evidence, and a label with its probability."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_t5gemma2.generation.encoded import Encoded
from keras_t5gemma2.messages import shown
from keras_t5gemma2.typing import Inputs, Mixin

# Plain words, which a pretrained model may have met: no format that it was tuned on.
QUESTION = "Question: {question}\nAnswer:"
SENTIMENT = "{text}\nSentiment:"
_ROWS_AT_A_TIME = 16


class Prompted(Mixin):
    """The methods of a task that generates; goes before its other base classes."""

    def answer(
        self, questions: str | Sequence[str], evidence: Inputs | Encoded, **generate: Any
    ) -> Any:
        """Answers to questions about a text, or about text and images, which is encoded once.

        The encoder reads the evidence. Each question is a prompt of the decoder, "Question: ...
        Answer:", and what follows on the line is the answer. The published weights are not tuned
        on questions: `fit` on `rows_to_answer` does that.

        Args:
            questions: a string, or a list of them.
            evidence: what `encode` takes of one row, such as a string; or what it gave for one.
            **generate: arguments of `generate`, such as `max_new_tokens`.

        Returns:
            A string for one question, else a list of strings.

        Raises:
            ValueError: the evidence is of several rows; or as `generate`.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.compile(sampler="greedy")
        >>> evidence = lm.encode("Spell 42 in German.")  # to ask again later
        >>> answers = lm.answer(["Which?", "And then?"], evidence, max_new_tokens=8)
        >>> len(answers)  # it has not learned to answer yet
        2
        """
        encoded = evidence if isinstance(evidence, Encoded) else self.encode(evidence)
        if len(encoded) != 1:
            raise ValueError(
                "`evidence` must be one row, which all questions are about. Received: "
                f"{len(encoded)} rows"
            )
        asked = _texts("questions", questions)
        prompts = {"decoder_text": [QUESTION.format(question=text) for text in asked]}
        options = {"strip_prompt": True, **generate}
        found = [_first_line(t) for t in self.generate(prompts, encoded=encoded, **options)]
        return found[0] if isinstance(questions, str) and len(found) == 1 else found

    def rows_to_answer(
        self, questions: Sequence[str], evidence: Sequence[str], answers: Sequence[str]
    ) -> tuple[dict[str, list[str]], None, np.ndarray]:
        """What `fit` takes to learn to `answer`: the loss is on the answers alone.

        Args:
            questions: list of strings.
            evidence: list of as many strings, what each question is about.
            answers: list of as many strings, of one line each.

        Returns:
            A tuple of rows, `None` and the weights of their labels, (rows, labels) float32.

        Raises:
            ValueError: the lists are of different lengths, or an answer has several lines.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> rows = lm.rows_to_answer(["In Dutch?"], ["Spell 7."], ["zeven"])
        >>> rows[0]["decoder_text"], int(rows[2].sum())  # the tokens of the answer and the end
        (['Question: In Dutch?\\nAnswer: zeven'], 4)
        >>> history = lm.fit(rows, verbose=0)
        """
        columns = {"questions": questions, "evidence": evidence, "answers": answers}
        questions, evidence, answers = _columns(columns)
        for row, answer in enumerate(answers):
            if not answer.strip() or "\n" in answer.strip():
                raise ValueError(
                    "An answer must be one line of text, at whose end `answer` stops reading. "
                    f"Received in row {row}: {shown(answer)}"
                )
        prompts = [QUESTION.format(question=question) for question in questions]
        texts = [f"{p} {answer.strip()}" for p, answer in zip(prompts, answers, strict=True)]
        tokenizer = self.preprocessor.tokenizer
        pairs = list(zip(tokenizer.tokenize(prompts), tokenizer.tokenize(texts), strict=True))
        weights = np.zeros((len(texts), 1 + max(len(ids) for _, ids in pairs)), "float32")
        for row, (prompt, ids) in enumerate(pairs):
            weights[row, _common(prompt, ids) : len(ids) + 1] = 1
        return {"encoder_text": [*evidence], "decoder_text": texts}, None, weights

    def classify(
        self,
        texts: str | Sequence[str],
        labels: Sequence[str] = ("negative", "positive"),
        prompt: str = SENTIMENT,
    ) -> Any:
        """For each text the label that the model would write, and its probability.

        The encoder reads the text in the prompt, and each label is scored as the decoder's whole
        text. The probability is that among the labels: how likely the model finds any of them is
        not in it; `score` says that. `fit` on `rows_to_classify` makes it a classifier.

        Args:
            texts: a string, or a list of them.
            labels: list of at least two different strings.
            prompt: string with "{text}" in it, by default one that asks for the sentiment.

        Returns:
            A tuple of label and probability for one text, else a list of those.

        Raises:
            ValueError: there are fewer than two different labels, or the prompt has no "{text}".

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> label, probability = lm.classify("Spell 7 in German.", ["acht", "sieben"], "{text}")
        >>> label, probability > 0.5
        ('sieben', True)
        """
        asked = [_filled(prompt, text) for text in _texts("texts", texts)]
        labels = _texts("labels", list(labels) if not isinstance(labels, str) else [labels])
        if len(set(labels)) < 2 or len(set(labels)) != len(labels):
            raise ValueError(
                "`labels` must be at least two strings, all different. Received: labels="
                f"{shown(labels)}"
            )
        found = []
        size = max(1, _ROWS_AT_A_TIME // len(labels))
        for start in range(0, len(asked), size):
            part = asked[start : start + size]
            rows = {
                "encoder_text": [text for text in part for _ in labels],
                "decoder_text": [*labels] * len(part),
            }
            scores = np.reshape(self.score(rows), (len(part), len(labels)))
            chances = np.exp(scores - scores.max(axis=1, keepdims=True))
            chances /= chances.sum(axis=1, keepdims=True)
            found += [(labels[c.argmax()], float(c.max())) for c in chances]
        return found[0] if isinstance(texts, str) else found

    def rows_to_classify(
        self, texts: Sequence[str], answers: Sequence[str], prompt: str = SENTIMENT
    ) -> Mapping[str, list[str]]:
        """The rows that `fit` takes to learn to `classify`.

        Args:
            texts: list of strings.
            answers: list of as many strings, the label of each text.
            prompt: as `classify` has it.

        Raises:
            ValueError: the lists are of different lengths, or the prompt has no "{text}".

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.rows_to_classify(["Good!"], ["positive"])
        {'encoder_text': ['Good!\\nSentiment:'], 'decoder_text': ['positive']}
        """
        texts, answers = _columns({"texts": texts, "answers": answers})
        asked = [_filled(prompt, text) for text in texts]
        return {"encoder_text": asked, "decoder_text": [*answers]}


def _texts(name, value):
    """A list of strings, of one string or of several."""
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) for text in value):
        raise TypeError(f"`{name}` must be a string or strings. Received: {shown(value)}")
    if len(value) == 0:
        raise ValueError(f"`{name}` must hold at least one text. Received: {shown(value)}")
    return list(value)


def _columns(columns):
    """Lists of strings of one length."""
    found = [_texts(name, list(value)) for name, value in columns.items()]
    if len(set(map(len, found))) > 1:
        counts = dict(zip(columns, map(len, found), strict=True))
        raise ValueError(f"There must be as many of each as of the others. Received: {counts}")
    return found


def _filled(prompt, text):
    if not isinstance(prompt, str) or "{text}" not in prompt:
        raise ValueError(
            f"`prompt` must be a string with {{text}} in it. Received: prompt={shown(prompt)}"
        )
    return prompt.replace("{text}", text)


def _first_line(text):
    return text.strip().partition("\n")[0].strip()


def _common(first, second):
    """How many ids at the beginning are the same."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(first))
