"""Arguments that many methods have: one rule for each, and every method follows it."""

import math
from fractions import Fraction

import keras
import numpy as np
import pytest
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2 import EvaluateGeneration, evaluate_generation
from keras_t5gemma2.options import checked, number

INPUTS = {"encoder_text": SMALL_ROWS["encoder_text"]}
BAD_COUNTS = {
    "zero": (0, ValueError),
    "negative": (-3, ValueError),
    "bool": (True, TypeError),
    "fraction": (2.5, TypeError),
    "whole float": (2.0, TypeError),
    "numpy bool": (np.True_, TypeError),
    "numpy float": (np.float32(3), TypeError),
    "string": ("4", TypeError),
    "list": ([4], TypeError),
}
# Per argument, the calls that take it.
COUNTS = {
    "max_new_tokens": {
        "generate": lambda lm, a: lm.generate(INPUTS, **a),
        "stream": lambda lm, a: lm.stream(INPUTS, **a),
        "evaluate_generation": lambda lm, a: evaluate_generation(lm, SMALL_ROWS, verbose=0, **a),
        "callback": lambda lm, a: EvaluateGeneration(SMALL_ROWS, **a),
    },
    "max_length": {
        "generate": lambda lm, a: lm.generate(INPUTS, **a),
        "stream": lambda lm, a: lm.stream(INPUTS, **a),
        "evaluate_generation": lambda lm, a: evaluate_generation(lm, SMALL_ROWS, verbose=0, **a),
    },
    "num_return_sequences": {
        "generate": lambda lm, a: lm.generate(INPUTS, **a),
        "infill": lambda lm, a: lm.infill("the <extra_0>", **a),
        "evaluate_generation": lambda lm, a: evaluate_generation(lm, SMALL_ROWS, verbose=0, **a),
    },
    "batch_size": {
        "generate": lambda lm, a: lm.generate(INPUTS, **a),
        "fit": lambda lm, a: lm.fit(SMALL_ROWS, verbose=0, **a),
        "evaluate": lambda lm, a: lm.evaluate(SMALL_ROWS, verbose=0, **a),
        "predict": lambda lm, a: lm.predict(SMALL_ROWS, verbose=0, **a),
        "sample_logits": lambda lm, a: lm.sample_logits(SMALL_ROWS, **a),
        "evaluate_generation": lambda lm, a: evaluate_generation(lm, SMALL_ROWS, verbose=0, **a),
        "callback": lambda lm, a: EvaluateGeneration(SMALL_ROWS, **a),
        "warmup": lambda lm, a: lm.warmup(8, **a),
    },
    "validation_batch_size": {
        "fit": lambda lm, a: lm.fit(SMALL_ROWS, validation_data=SMALL_ROWS, verbose=0, **a),
    },
    "num_samples": {
        "sample_logits": lambda lm, a: lm.sample_logits(SMALL_ROWS, **a),
    },
    "new_tokens": {"warmup": lambda lm, a: lm.warmup(8, **a)},
    "encoder_sequence_length": {
        "preprocessor": lambda lm, a: lm.preprocessor(SMALL_ROWS, **a),
        "generate_preprocess": lambda lm, a: lm.preprocessor.generate_preprocess(INPUTS, **a),
    },
}
CALLS = [(name, call) for name, calls in COUNTS.items() for call in calls]


@pytest.fixture(scope="module")
def lm():
    return small_task()


@pytest.mark.once
@pytest.mark.parametrize(("name", "call"), CALLS, ids=["-".join(call) for call in CALLS])
def test_every_call_refuses_a_bad_count_by_name(lm, name, call):
    before = [variable.numpy() for variable in lm.trainable_variables]
    for kind, (value, error) in BAD_COUNTS.items():
        if call == "warmup" and kind == "list":
            continue  # several programs
        with pytest.raises(error, match=f"`{name}` must be .*Received: {name}="):
            COUNTS[name][call](lm, {name: value})
    for variable, value in zip(lm.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


STOPS = {
    "generate": lambda lm, ids: lm.generate(INPUTS, max_new_tokens=4, stop_token_ids=ids),
    "stream": lambda lm, ids: list(lm.stream(INPUTS, max_new_tokens=4, stop_token_ids=ids)),
    "warmup": lambda lm, ids: lm.warmup(8, 4, stop_token_ids=ids),
    "evaluate_generation": lambda lm, ids: evaluate_generation(
        lm, SMALL_ROWS, metrics=["exact_match"], verbose=0, max_new_tokens=4, stop_token_ids=ids
    ),
}


@pytest.mark.once
@pytest.mark.parametrize("call", STOPS)
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (1, TypeError),
        ("eos", TypeError),
        (b"1", TypeError),
        ({1: 2}, TypeError),
        ([1.0], TypeError),
        ([True], TypeError),
        ([1, None], TypeError),
        (["1"], TypeError),
        ([-1], ValueError),
        ([10**6], ValueError),
    ],
    ids=repr,
)
def test_bad_stop_token_ids(lm, call, value, error):
    with pytest.raises(error, match="`stop_token_ids` must be .*Received: stop_token_ids="):
        STOPS[call](lm, value)


@pytest.mark.parametrize("call", ["generate", "stream"])
@pytest.mark.once
def test_stop_token_ids_of_any_sequence_and_none_in_an_empty_one(lm, call):
    run = STOPS[call]
    free = run(lm, None)
    assert run(lm, []) == run(lm, ()) == free
    one = lm.preprocessor.tokenizer.end_token_id
    forms = [[one], (np.int64(one),), np.array([one]), {one}]
    assert len({str(run(lm, form)) for form in forms}) == 1


@pytest.mark.once
def test_counts_of_numpy(lm):
    four = np.int32(4)
    assert lm.generate(INPUTS, max_new_tokens=four, batch_size=np.int64(1)) == lm.generate(
        INPUTS, max_new_tokens=4
    )
    assert "".join(lm.stream("the cat", max_length=four)) == lm.generate(
        "the cat", max_length=4, strip_prompt=True
    )
    lm.evaluate(SMALL_ROWS, batch_size=np.int64(2), verbose=0)


@pytest.mark.once
@pytest.mark.parametrize("sign", [1, -1])
def test_numbers_that_no_float_holds_are_infinite(sign):
    for value in (sign * 10**400, Fraction(sign * 10**400)):
        assert number(value) == sign * math.inf
    assert number(sign * 10**300) == sign * 10**300


@pytest.mark.once
def test_values_in_one_form():
    values = checked(max_length=None, batch_size=np.uint8(3), stop_token_ids=np.array([5, 5, 2]))
    assert values == [None, 3, (5, 2)] and type(values[1]) is int
    assert checked(stop_token_ids="auto") == "auto"
    assert checked(batch_size=keras.ops.array(2)) == 2
    with pytest.raises(TypeError, match="num_return_sequences=None"):
        checked(num_return_sequences=None)
