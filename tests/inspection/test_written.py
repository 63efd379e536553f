"""Which text is looked at."""

import numpy as np
import pytest
from tasks import TOKENIZER, small_task

from keras_t5gemma2.inspection.written import written

TEXT = {"encoder_text": "what is in the garden"}
END = TOKENIZER.end_token_id


def ids_of(lm, row, output=None, **generate):
    (found,), is_single = written(lm, row, output, generate)
    assert is_single
    return found.rows.prompts[0].tolist(), found.token_ids.tolist()


@pytest.mark.once
def test_a_text_is_given_as_target_or_output():
    lm, start = small_task(), TOKENIZER.start_token_id
    ids = list(TOKENIZER("a red bee"))
    assert ids_of(lm, {**TEXT, "decoder_text": "a red bee"}) == ([start], [*ids, END])
    assert ids_of(lm, TEXT, "a red bee") == ([start], [*ids, END])
    assert ids_of(lm, TEXT, ids) == ([start], ids)
    assert ids_of(lm, TEXT, np.array(ids, "int64")) == ([start], ids)
    prompt = list(TOKENIZER("the cat"))
    row = {**TEXT, "decoder_text": "the cat"}
    assert ids_of(lm, row, "a red bee") == ([start, *prompt], [*ids, END])
    long = "a red bee and a house and a dog and the cat and a red bee and a house"
    assert len(ids_of(lm, TEXT, long)[1]) > lm.preprocessor.decoder_sequence_length
    assert len(ids_of(lm, {**TEXT, "decoder_text": long})[1]) == len(list(TOKENIZER(long))) + 1


@pytest.mark.once
def test_a_text_is_generated_where_none_is_given():
    lm = small_task()
    found = lm.generate(TEXT, max_new_tokens=5, return_scores=True)
    assert ids_of(lm, TEXT, max_new_tokens=5)[1] == found.token_ids.tolist()
    assert lm.attention(TEXT, max_new_tokens=2).past.shape[2] == 2
    arrays = lm.preprocessor.generate_preprocess([TEXT["encoder_text"]])
    lm.preprocessor = None
    options = {"max_new_tokens": 5, "stop_token_ids": [END]}
    (found_of_arrays,), _ = written(lm, arrays, None, options)
    assert found_of_arrays.token_ids.tolist() == found.token_ids.tolist()


@pytest.mark.once
def test_several_rows_have_a_text_each():
    lm = small_task()
    rows = {"encoder_text": ["the cat", "a dog"]}
    found, is_single = written(lm, rows, ["a", [5, 6]], {})
    assert not is_single and [row.number for row in found] == [0, 1]
    assert found[1].token_ids.tolist() == [5, 6]
    assert isinstance(lm.attention(["the cat"], output=["a"]), list)
    for output in ("a", ["a"]):
        with pytest.raises(ValueError, match="one text for each. Received: 2 rows and output="):
            written(lm, rows, output, {})


@pytest.mark.once
@pytest.mark.parametrize("output", [[], [5, 10**6], [1.5], [-1], 7])
def test_outputs_that_are_none(output):
    with pytest.raises(ValueError, match=r"at least one id from 0 to \d+. Received: output="):
        small_task().attention(TEXT, output=output)


@pytest.mark.once
def test_arguments_that_have_no_meaning():
    lm = small_task()
    for name in ("encoded", "num_return_sequences", "return_scores", "strip_prompt"):
        with pytest.raises(TypeError, match=f"`{name}` of `generate` cannot be given here"):
            lm.attention(TEXT, **{name: None})
    with pytest.raises(TypeError, match="this one is given. Received: max_new_tokens"):
        lm.probe(TEXT, output="a", max_new_tokens=4)
    lm.preprocessor = None
    with pytest.raises(ValueError, match="the inputs must be arrays as the model takes them"):
        lm.attention("the cat")
    names = ("encoder_token_ids", "encoder_padding_mask")
    names += ("decoder_token_ids", "decoder_padding_mask")
    with pytest.raises(ValueError, match="preprocessor=None, output='a'"):
        lm.attention(dict.fromkeys(names, np.ones(3, "int32")), output="a")
