"""Text that is too long: read up to the caps, and one warning for each call that cuts."""

import warnings

import keras
import numpy as np
import pytest
from tasks import SMALL_ROWS, TOKENIZER, small_task

from keras_t5gemma2 import T5Gemma2Seq2SeqLM, evaluate_generation
from keras_t5gemma2.preprocessing.denoising_preprocessor import T5Gemma2DenoisingPreprocessor

LONG = "the cat is in the garden " * 40
COUNT = len(TOKENIZER.tokenize(LONG)) + 1  # the start token
MIXED = {"encoder_text": ["a", LONG, "b", LONG], "decoder_text": ["a dog"] * 4}
SENTENCE = f"`encoder_text` of row 1 has {COUNT} tokens, of which the first 11 are read"


@pytest.fixture(scope="module")
def lm():
    return small_task()


@pytest.fixture
def warned(recwarn):
    """The messages of this package's warnings so far, and a list anew."""
    warnings.simplefilter("always")

    def messages():
        found = [str(w.message) for w in recwarn if issubclass(w.category, UserWarning)]
        recwarn.clear()
        return found

    return messages


def batches():
    for row in range(4):
        yield {name: [texts[row]] for name, texts in MIXED.items()}


INPUTS = {"encoder_text": MIXED["encoder_text"]}
ONCE = pytest.mark.once
CALLS = {
    "encode": lambda lm: lm.encode(INPUTS),
    "generate": lambda lm: lm.generate(INPUTS, max_new_tokens=2),
    "batches": lambda lm: lm.generate(INPUTS, max_new_tokens=2, batch_size=1),
    "stream": lambda lm: list(lm.stream(INPUTS, max_new_tokens=2)),
    "score": lambda lm: lm.score(MIXED),
    "fit": lambda lm: lm.fit(MIXED, epochs=2, batch_size=1, verbose=0),
    "both": lambda lm: lm.fit(MIXED, validation_data=MIXED, verbose=0),
    "evaluate": lambda lm: lm.evaluate(MIXED, batch_size=1, verbose=0),
    "predict": lambda lm: lm.predict(MIXED, verbose=0),
    "evaluate_generation": lambda lm: evaluate_generation(
        lm, MIXED, batch_size=1, metrics=["exact_match"], verbose=0, max_new_tokens=2
    ),
    "preprocessor": lambda lm: lm.preprocessor(MIXED),
    "generate_preprocess": lambda lm: lm.preprocessor.generate_preprocess(INPUTS),
    "train_on_batch": lambda lm: lm.train_on_batch(MIXED),
}


@pytest.mark.once
@pytest.mark.parametrize("call", CALLS)
def test_one_warning_names_row_tokens_and_cap(lm, warned, call):
    CALLS[call](lm)
    (message,) = warned()
    assert message.startswith(SENTENCE) and "and 1 more row likewise" in message
    assert "(encoder_sequence_length=11)" in message
    assert "Set `preprocessor.encoder_sequence_length`" in message


@pytest.mark.once
def test_a_warning_points_at_the_line_of_the_caller(lm):
    for call in CALLS.values():
        with pytest.warns(UserWarning, match="which the first 11") as found:
            call(lm)
        assert {w.filename for w in found if w.category is UserWarning} == {__file__}


@pytest.mark.once
def test_a_stream_of_batches_warns_once_and_names_the_batch(lm, warned):
    lm.fit(batches(), verbose=0)
    (message,) = warned()
    assert message.startswith("In batch 1: `encoder_text` of row 0 has")
    lm.evaluate(next(batches()), verbose=0)
    assert warned() == []


@pytest.mark.once
def test_both_streams_in_one_warning(lm, warned):
    rows = {"encoder_text": ["a", LONG], "decoder_text": [LONG, "b"]}
    lm.fit(rows, verbose=0)
    (message,) = warned()
    assert SENTENCE in message
    # The target's end token is no input.
    assert f"`decoder_text` of row 0 has {COUNT} tokens, of which the first 9 are read" in message


@pytest.mark.once
def test_nothing_is_said_where_nothing_is_cut(lm, warned):
    lm.preprocessor.encoder_sequence_length = COUNT
    try:
        found = lm.encode(LONG).memory.positions
        assert (keras.ops.convert_to_numpy(found) >= 0).sum() == COUNT
        lm.fit({"encoder_text": [LONG], "decoder_text": ["b"]}, verbose=0)
    finally:
        lm.preprocessor.encoder_sequence_length = 11
    lm.generate(SMALL_ROWS["encoder_text"][:1], max_new_tokens=2)
    assert warned() == []


@pytest.mark.once
def test_score_refuses_a_target_that_it_would_cut(lm, warned):
    rows = {"encoder_text": ["a", "b"], "decoder_text": ["a dog", LONG]}
    with pytest.raises(ValueError, match=f"row 1 with {COUNT} tokens, and decoder_sequence_len"):
        lm.score(rows)
    with pytest.raises(ValueError, match="row 0 with"):
        lm.score({"encoder_text": LONG, "decoder_text": LONG})
    assert warned() == []
    lm.preprocessor.decoder_sequence_length = COUNT
    try:
        one, two = lm.score({"encoder_text": "a", "decoder_text": LONG[:-1]}), None
        two = lm.score({"encoder_text": "a", "decoder_text": LONG + "dog"})
    except ValueError:
        pass
    finally:
        lm.preprocessor.decoder_sequence_length = 9
    assert np.isfinite(one) and one != two


@pytest.mark.once
@pytest.mark.parametrize("name", ["encoder_sequence_length", "decoder_sequence_length"])
def test_the_caps_can_be_set_later_and_are_checked(lm, name):
    preprocessor = lm.preprocessor
    before = getattr(preprocessor, name)
    for value, error in ((0, ValueError), (-1, ValueError), (2.0, TypeError), ("8", TypeError)):
        with pytest.raises(error, match=f"`{name}` must be .*Received: {name}={value!r}"):
            setattr(preprocessor, name, value)
    with pytest.raises(TypeError, match=f"{name}=None"):
        setattr(preprocessor, name, None)
    assert getattr(preprocessor, name) == before
    setattr(preprocessor, name, np.int64(7))
    assert preprocessor.get_config()[name] == 7 and type(preprocessor.get_config()[name]) is int
    setattr(preprocessor, name, before)


# Without a limit of new tokens


@pytest.fixture(scope="module")
def endless():
    """A model that never stops: its end token is the least likely one."""
    lm = small_task()
    lm.preprocessor.decoder_sequence_length = 1000
    return lm


@pytest.mark.once
def test_at_most_256_new_tokens_where_nobody_says_how_many(endless, warned):
    lm = endless
    stop = {"stop_token_ids": None}
    text = lm.generate(["the cat", "a"], **stop)
    (message,) = warned()
    assert message.startswith("256 new tokens were written for row 0 and no stop token came")
    assert "and 1 more row likewise. Give `max_new_tokens` for more" in message
    assert lm.generate(["the cat", "a"], max_new_tokens=256, **stop) == text
    assert warned() == []
    pieces = list(lm.stream("the cat", **stop))
    (message,) = warned()
    assert message.startswith("256 new tokens were written for row 0") and "more row" not in message
    assert "".join(pieces) == text[0]


@pytest.mark.once
def test_the_cap_is_room_for_prompt_and_new_tokens(lm, warned):
    text = lm.generate({"encoder_text": LONG, "decoder_text": "a dog"}, stop_token_ids=None)
    (message,) = warned()
    assert f"has {COUNT} tokens, of which the first 11 are read" in message
    assert "filled decoder_sequence_length=9. Give `max_new_tokens` for more" in message
    assert lm.generate(
        {"encoder_text": "a", "decoder_text": "a dog"}, max_length=9, stop_token_ids=None
    ).startswith("a dog")
    assert warned() == [] and text.startswith("a dog")


@pytest.mark.once
def test_the_cache_has_room_for_256_tokens_alone(endless, monkeypatch):
    sizes = []
    step = type(endless).generate_step

    def generate_step(self, inputs, *args):
        sizes.append(inputs["new_token_ids"].shape[1])
        return step(self, inputs, *args)

    monkeypatch.setattr(type(endless), "generate_step", generate_step)
    endless.generate_function = None
    endless.generate("the cat")
    endless.generate_function = None
    assert sizes == [256]


# The denoising preprocessor


@pytest.mark.once
def test_a_part_of_a_long_text_is_drawn_with_one_warning(warned):
    task = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", load_weights=False)
    tokenizer = task.preprocessor.tokenizer
    task.preprocessor = T5Gemma2DenoisingPreprocessor(
        tokenizer, encoder_sequence_length=24, decoder_sequence_length=24
    )
    count = len(tokenizer.tokenize(LONG))
    task.evaluate(["the cat", LONG], batch_size=1, verbose=0)
    (message,) = warned()
    assert f"row 1 has {count} tokens, of which a part that fits is drawn" in message
    task.evaluate(["the cat"], verbose=0)
    assert warned() == []
