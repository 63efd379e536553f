"""Presets of keras-hub whose two tables training has untied."""

import numpy as np
import pytest
from keras import ops
from keras_hub_models import hub_backbone

from keras_t5gemma2 import T5Gemma2Backbone
from keras_t5gemma2.checkpoints.keras_hub import untied as untied_module
from keras_t5gemma2.checkpoints.keras_hub.untied import check_choice, one_of
from keras_t5gemma2.files.tensors import StoredTensor

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    """A preset whose tables differ in two rows, and both tables."""
    directory = tmp_path_factory.mktemp("untied")
    hub = hub_backbone(vision=False)
    encoder = ops.convert_to_numpy(hub.token_embedding.embeddings)
    decoder = encoder.copy()
    decoder[[3, 1000]] += np.array([[0.5], [0.25]], "float32")
    hub.decoder_token_embedding.embeddings.assign(decoder)
    hub.save_to_preset(str(directory))
    return directory, encoder, decoder


def test_tables_that_differ_stop_the_load(untied):
    message = r"differ in 2 rows, by up to 0.5.*`embeddings='encoder'`.*'decoder'`.*'mean'`"
    with pytest.raises(ValueError, match=message):
        T5Gemma2Backbone.from_preset(untied[0])
    with pytest.raises(ValueError, match="Received: embeddings='both'"):
        T5Gemma2Backbone.from_preset(untied[0], embeddings="both")


@pytest.mark.parametrize("choice", ["encoder", "decoder", "mean"])
def test_either_table_or_their_mean_is_taken(untied, choice):
    directory, encoder, decoder = untied
    backbone = T5Gemma2Backbone.from_preset(directory, embeddings=choice)
    wanted = {"encoder": encoder, "decoder": decoder, "mean": (encoder + decoder) / 2}[choice]
    np.testing.assert_array_equal(ops.convert_to_numpy(backbone.embedder.table.embeddings), wanted)
    # keras-hub's text model reads the end of an image like any other token.
    vector = ops.convert_to_numpy(backbone.embedder.end_of_image)
    np.testing.assert_allclose(vector, wanted[5] * 28**0.5, rtol=1e-6)


def pair(encoder, decoder):
    """Two tensors of a file, and how often each was released."""
    released = []
    tensors = [
        StoredTensor(name, array.shape, lambda array=array: array, lambda: released.append(1))
        for name, array in (("one", encoder), ("two", decoder))
    ]
    return tensors, released


def test_pieces_change_nothing(rng, monkeypatch):
    """Of five rows three at a time; the mean is formed in float32, in the dtype of the file."""
    monkeypatch.setattr(untied_module, "_BYTES_AT_ONCE", 3 * 4 * 2)
    encoder, decoder = rng.normal(size=(2, 5, 4)).astype("bfloat16")
    tensors, released = pair(encoder, decoder)
    mean = one_of(*tensors, "mean", "here")
    assert mean.name == "the mean of one and two" and mean.shape == (5, 4)
    wanted = (encoder.astype("float32") + decoder.astype("float32")) / 2
    assert mean.read().dtype == "bfloat16"
    np.testing.assert_array_equal(mean.read(), wanted.astype("bfloat16"))
    assert released
    decoder = encoder.copy()
    encoder[4, 3], decoder[4, 3] = 3.0, 1.0  # in the second piece
    with pytest.raises(ValueError, match="differ in 1 rows, by up to 2, as training"):
        one_of(*pair(encoder, decoder)[0], None, "here")


def test_equal_ones_are_one_and_nan_is_left_to_others():
    encoder = np.array([1.0, np.nan, -0.0], "float32")
    tensors, _ = pair(encoder, np.array([1.0, np.nan, 0.0], "float32"))
    assert one_of(*tensors, None, "here") is one_of(*tensors, "encoder", "here") is tensors[0]
    assert one_of(*tensors, "decoder", "here") is tensors[1]
    tensors, _ = pair(encoder, np.array([1.0, 2.0, 0.0], "float32"))
    with pytest.raises(ValueError, match="differ in 1 rows"):
        one_of(*tensors, None, "here")


@pytest.mark.parametrize("shapes", [((2, 3), (3, 3)), ((), ())])
def test_shapes_that_are_none_of_a_table(shapes):
    tensors, _ = pair(*map(np.zeros, shapes))
    with pytest.raises(ValueError, match="one and two of here must have the same shape"):
        one_of(*tensors, "mean", "here")


def test_choices():
    for choice in (None, "encoder", "decoder", "mean"):
        check_choice(choice)
    with pytest.raises(ValueError, match="one of 'encoder', 'decoder', 'mean', or `None`"):
        check_choice("sum")
