"""Text with gaps that the user marks, and what the model puts into them."""

import re

from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import checked
from keras_t5gemma2.preprocessing.chat_preprocessor import T5Gemma2ChatPreprocessor
from keras_t5gemma2.preprocessing.columns import Columns
from keras_t5gemma2.preprocessing.dialogues import Dialogue
from keras_t5gemma2.preprocessing.sources import read_rows
from keras_t5gemma2.vocabulary.sentinels import FIRST_SENTINEL, sentinels

_GAP = re.compile(r"<extra_(\d+)>")


def infill(generator, inputs, first_sentinel=FIRST_SENTINEL, **options):
    """See `T5Gemma2Seq2SeqLM.infill`; `generator` is a `Generator`."""
    if generator.preprocessor is None:
        raise ValueError(
            "`infill` needs a preprocessor, which knows the text of tokens. "
            "Received: preprocessor=None"
        )
    count = options.get("num_return_sequences", 1)
    if checked(num_return_sequences=count) != 1:
        raise ValueError(
            "`infill` gives one filling of each text. Received: num_return_sequences="
            f"{count}. Give the text several times"
        )
    if options.get("return_scores"):
        raise ValueError(
            "`infill` gives fillings alone. Received: return_scores=True. Call `generate`"
        )
    tokens = sentinels(generator.preprocessor.tokenizer, first_sentinel)
    rows, is_single = read_rows(inputs, Columns(options.pop("columns", None)))
    _check_are_no_turns(generator.preprocessor, rows)
    marked = [_with_sentinels(row, tokens) for row in rows]
    texts = generator.generate(marked, strip_prompt=True, **options)
    filled = [
        _gaps_of(tokens[0] + text, tokens[: len(_GAP.findall(row.encoder_text))])
        for row, text in zip(rows, texts, strict=True)
    ]
    return filled[0] if is_single else filled


def _check_are_no_turns(preprocessor, rows):
    """A chat template writes no sentinels: what is spelled like one in a message stays text."""
    if isinstance(preprocessor, T5Gemma2ChatPreprocessor):
        raise ValueError(
            "`infill` fills gaps of plain text, not of dialogues. Received a task with a "
            "`T5Gemma2ChatPreprocessor`. Give it a `T5Gemma2Seq2SeqLMPreprocessor`"
        )
    for row in rows:
        if isinstance(row.encoder_text, Dialogue):
            raise ValueError(
                "`infill` fills gaps of plain text, not of dialogues. Received messages in row "
                f"{row.number}. Give their text"
            )


def _with_sentinels(row, tokens):
    """The row with sentinels in the places of its gaps; the decoder begins with the first."""
    text = row.encoder_text or ""
    numbers = [int(number) for number in _GAP.findall(text)]
    if not numbers or numbers != list(range(len(numbers))):
        raise ValueError(
            "The gaps of a text must be marked <extra_0>, <extra_1> and so on, in this order. "
            f"Received in row {row.number}: {shown([f'<extra_{n}>' for n in numbers])}"
        )
    if len(numbers) > len(tokens):
        raise ValueError(
            f"A text must have at most {len(tokens)} gaps, as many as the vocabulary has sentinels "
            f"from {tokens[0]} on. Received in row {row.number}: {len(numbers)}"
        )
    if row.decoder_text is not None:
        raise ValueError(
            "`decoder_text` must be left out: the gaps are filled from the first one on. "
            f"Received one in row {row.number}"
        )
    marked = _GAP.sub(lambda gap: tokens[int(gap[1])], text)
    return row._replace(encoder_text=marked, decoder_text=tokens[0])


def _gaps_of(text, tokens):
    """Per token, the text between it and whichever of them comes next."""
    anywhere = "|".join(map(re.escape, tokens))
    _, *parts = re.split(f"({anywhere})", text)
    found = {}
    for token, part in zip(parts[::2], parts[1::2], strict=True):
        found.setdefault(token, part.strip())
    return [found.get(token) for token in tokens]
