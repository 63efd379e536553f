"""What is said on stderr while a program is compiled."""

import re

import keras
import pytest
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2 import compiling

IS_COMPILED = keras.config.backend() != "torch"

WAYS = {
    "generate": lambda lm, **options: lm.generate("the cat", max_new_tokens=3, **options),
    "stream": lambda lm, **options: list(lm.stream("the cat", max_new_tokens=3, **options)),
    "encode": lambda lm, **options: lm.encode("the cat", **options),
    "fit": lambda lm, **options: lm.fit(SMALL_ROWS, epochs=2, **options),
    "evaluate": lambda lm, **options: lm.evaluate(SMALL_ROWS, **options),
    "predict": lambda lm, **options: lm.predict(SMALL_ROWS, **options),
}


# The others are slow where programs are compiled.
NAMES = [pytest.param(name, marks=() if name == "generate" else pytest.mark.once) for name in WAYS]


@pytest.mark.parametrize("name", NAMES)
def test_a_program_is_reported_when_it_is_compiled(name, capsys):
    lm, run = small_task(), WAYS[name]
    run(lm)
    lines = capsys.readouterr().err.splitlines()
    reports = [line for line in lines if line.startswith("keras_t5gemma2: ")]
    if not IS_COMPILED:
        assert reports == []
        return
    begun = [
        line
        for line in reports
        if re.search(rf"compiling .*{name}.* for (\d|any number of) rows?, ", line)
    ]
    ended = [line for line in reports if re.search(rf"compiled .*{name} in \d+\.\d s$", line)]
    assert len(begun) == len(ended) == 1
    assert "tokens of the encoder" in begun[0]
    assert reports.index(begun[0]) < reports.index(ended[0])
    run(lm)  # once only
    assert "keras_t5gemma2: " not in capsys.readouterr().err


@pytest.mark.once
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_said_where_it_is_turned_off(name, capsys):
    WAYS[name](small_task(), verbose=0)
    captured = capsys.readouterr()
    assert "keras_t5gemma2" not in captured.err + captured.out


@pytest.mark.once
def test_validation_is_reported_too_and_nothing_after_an_error(capsys):
    lm = small_task()
    lm.fit(SMALL_ROWS, validation_data=SMALL_ROWS)
    err = capsys.readouterr().err
    assert err.count("compiled a step of ") == (2 if IS_COMPILED else 0)
    assert err.count("compiled a step of evaluate") == (1 if IS_COMPILED else 0)

    class Failing(keras.callbacks.Callback):
        def on_epoch_end(self, *_):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lm.fit(SMALL_ROWS, callbacks=[Failing()])
    assert lm.generate("the cat", max_new_tokens=2, verbose=0) is not None
    lm.evaluate(SMALL_ROWS, verbose=0)
    assert "keras_t5gemma2" not in capsys.readouterr().err


@pytest.mark.once
def test_sizes_in_words():
    class Shape:
        def __init__(self, *shape):
            self.shape = shape

    inputs = {"encoder_token_ids": Shape(2, 64), "new_token_ids": Shape(2, 32), "x": Shape(1)}
    assert compiling.sizes_of([inputs]) == "2 rows, 64 tokens of the encoder, 32 new tokens"
    inputs = {"decoder_token_ids": Shape(None, None)}
    words = "any number of rows, any number of tokens of the decoder"
    assert compiling.sizes_of([inputs]) == words


@pytest.mark.slow
@pytest.mark.skipif(IS_COMPILED, reason="of torch's compiler")
def test_a_step_that_torch_compiles_is_reported(capsys):
    lm = small_task()
    lm.compile(sampler="greedy", jit_compile=True)
    lm.generate("the cat", max_new_tokens=3)
    err = capsys.readouterr().err
    assert "compiling a step of generate for 1 row, 64 tokens of the encoder" in err
    assert re.search(r"compiled a step of generate in \d+\.\d s", err)
