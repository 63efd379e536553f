"""An answer to a dialogue: what `T5Gemma2Seq2SeqLM.chat` is made of."""

import collections

from keras_t5gemma2.arguments import check_flags
from keras_t5gemma2.constraints.words import cut
from keras_t5gemma2.generation.outputs import Generated
from keras_t5gemma2.generation.streaming import End
from keras_t5gemma2.messages import shown, warn
from keras_t5gemma2.preprocessing.chat_template import turn_end
from keras_t5gemma2.preprocessing.dialogues import are_dialogues
from keras_t5gemma2.preprocessing.rows import parse_rows


def chat(task, messages, images, stream, options):
    """See `T5Gemma2Seq2SeqLM.chat`; `options` are those of `generate` or of `stream`."""
    check_flags(stream=stream)
    if task.preprocessor is None:
        raise ValueError(
            "`chat` needs a preprocessor, which knows how dialogues are written. Received: "
            "preprocessor=None"
        )
    _check_options(options)
    _check_messages(messages)
    rows, is_single = parse_rows({"messages": messages, "images": images})
    _note_markers(task.preprocessor.tokenizer.start_of_image_token, rows, images)
    end, stop_token_ids = turn_end(task.preprocessor)
    options.setdefault("stop_token_ids", "auto")
    if options["stop_token_ids"] == "auto":
        options["stop_token_ids"] = stop_token_ids
    if stream:
        return _pieces(task.stream(rows, **options), end, is_single)
    answers = _without(task.generate(rows, strip_prompt=True, **options), end)
    return _alone(answers) if is_single else answers


def _check_options(options):
    for name, instead in (("inputs", "messages"), ("strip_prompt", ""), ("columns", "")):
        if name in options:
            what = f"Give `{instead}`" if instead else "Leave it out: an answer has no prompt"
            raise TypeError(f"`chat` has no argument `{name}`. {what}")


def _check_messages(messages):
    is_text = isinstance(messages, str)
    if not (is_text or are_dialogues(messages)):
        raise ValueError(
            "`messages` must be a list of messages, each a dict of `role` and `content`, a list of "
            f"such lists, or a string, one message of the user. Received: {shown(messages)}"
        )


def _note_markers(marker, rows, images):
    """Says that an image's marker in a message is text, where images come beside the messages."""
    if images is None:
        return
    texts = str([row.encoder_text.messages for row in rows])
    if marker in texts:
        warn(
            f"`{marker}` in a message is text, and stands for no image. Where an image stands, "
            'give the message parts: [{"type": "image"}, {"type": "text", "text": ...}]'
        )


def _pieces(pieces, end, is_single):
    """Tuples of row and text up to the end of the turn, or of a single row the text."""
    ends = collections.defaultdict(lambda: End((end,) if end else ()))
    for row, piece in pieces:
        if piece := ends[row].add(piece):
            yield piece if is_single else (row, piece)
    for row, of_row in ends.items():
        if piece := of_row.finish():
            yield piece if is_single else (row, piece)


def _alone(answers):
    """Of a list of one answer, or `Generated` of one, that answer."""
    if isinstance(answers, Generated) and len(answers.texts) == 1:
        return Generated({name: value[0] for name, value in answers.items()})
    return answers[0] if isinstance(answers, list) and len(answers) == 1 else answers


def _without(found, end):
    """What `generate` gives, its texts up to the end of the turn."""
    if isinstance(found, str):
        return cut(found, (end,)) if end else found
    if isinstance(found, dict):
        return type(found)({key: _without(value, end) for key, value in found.items()})
    if isinstance(found, tuple) and hasattr(found, "_fields"):
        return found._replace(
            **{name: _without(getattr(found, name), end) for name in found._fields}
        )
    if isinstance(found, (list, tuple)):
        return type(found)(_without(value, end) for value in found)
    return found
