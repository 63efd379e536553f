"""Calls of the preprocessing layers outside of a graph, and options that are fixed."""

import keras
import pytest

from keras_t5gemma2.preprocessing.numpy_call import NumpyCall, check_fixed

pytestmark = pytest.mark.once


class Given(NumpyCall, keras.layers.Layer):
    """Gives what it gets."""

    def call(self, x, y=None, sample_weight=None):
        return x, y, sample_weight


def test_data_goes_to_the_call_as_it_is():
    x = {"text": ["a", None], "more": object()}
    layer = Given()
    assert layer(x)[0] is x and layer(x, "y", sample_weight=1) == (x, "y", 1)
    assert not layer.built  # nothing of Keras ran


def test_a_tuple_alone_is_x_and_y_where_keras_hub_has_it_so(monkeypatch):
    from keras_t5gemma2.preprocessing import numpy_call

    for accepts, want in ((True, ("x", "y", None)), (False, (("x", "y"), None, None))):
        monkeypatch.setattr(numpy_call, "accepts_labels", lambda layer, accepts=accepts: accepts)
        assert Given()(("x", "y")) == want
        assert Given()(["x", "y"])[0] == ["x", "y"]


@pytest.mark.skipif(keras.config.backend() == "tensorflow", reason="there it is part of a model")
def test_symbols_are_refused_with_the_backend():
    with pytest.raises(TypeError, match="A Given takes data, not the symbolic `keras.Input`, on"):
        Given()({"x": [keras.Input((3,))]})


FIXED = {
    "dtype": ("int32", "ids are integers"),
    "sequence": (None, "rows differ"),
    "on": (True, "it is"),
}


@pytest.mark.parametrize(
    "options",
    [{}, {"dtype": "int32"}, {"dtype": keras.DTypePolicy("int32")}, {"sequence": None, "on": True}],
    ids=str,
)
def test_a_fixed_option_may_be_given_as_it_is_and_is_taken_out(options):
    options = {**options, "name": "mine"}
    check_fixed("Layer", options, FIXED)
    assert options == {"name": "mine"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "dtype",
            "float32",
            "`dtype` of a Layer must be 'int32': ids are integers. Received: dtype='f",
        ),
        ("sequence", 0, "must be None: rows differ. Received: sequence=0"),
        ("on", [True], "must be True: it is"),
    ],
)
def test_another_value_is_refused_with_the_reason(name, value, message):
    with pytest.raises(ValueError, match=message):
        check_fixed("Layer", {name: value}, FIXED)
