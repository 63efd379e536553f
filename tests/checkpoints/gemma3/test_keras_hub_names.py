"""Where a Gemma 3 of keras-hub keeps each weight, against a file that it writes."""

import numpy as np
import pytest
from gemma3_presets import hub_backbone

from keras_t5gemma2.checkpoints.gemma3.keras_hub_names import places
from keras_t5gemma2.files.h5 import read_h5

pytestmark = pytest.mark.once


@pytest.mark.parametrize("vision", [False, True], ids=["text", "vision"])
def test_places_are_the_arrays_of_the_file(vision, tmp_path):
    hub_backbone(vision, num_layers=2).save_weights(tmp_path / "model.weights.h5")
    found = places(2, 2 if vision else None)
    assert {place.path for place in found.values()} == set(read_h5(tmp_path))
    assert len({place.path for place in found.values()}) == len(found)


def arranged(name, array):
    return places(1, 1)[name].arrange(array)


def test_matrices_of_heads_multiply_as_they_did(rng):
    """Gemma 3's own files have (out, in)."""
    x, file = rng.normal(size=5), rng.normal(size=(3, 5, 7))
    wanted = np.einsum("i,hiw->hw", x, file).ravel()
    for part in ("q", "k", "v"):
        matrix = arranged(f"layers.0.self_attn.{part}_proj.weight", file)
        np.testing.assert_allclose(matrix @ x, wanted)
    heads, file = rng.normal(size=(3, 7)), rng.normal(size=(3, 7, 5))
    matrix = arranged("layers.0.self_attn.o_proj.weight", file)
    np.testing.assert_allclose(matrix @ heads.ravel(), np.einsum("hw,hwo->o", heads, file))


def test_other_arrays(rng):
    file = rng.normal(size=(2, 3, 5, 7))  # height, width, in, out
    patches = arranged("vision_tower.embeddings.patch_embedding.weight", file)
    assert patches.shape == (7, 5, 2, 3) and patches[6, 4, 1, 2] == file[1, 2, 4, 6]
    matrix, vector = rng.normal(size=(4, 6)), rng.normal(size=6)
    for name in ("layers.0.mlp.down_proj", "vision_tower.encoder.layers.0.mlp.fc1"):
        np.testing.assert_array_equal(arranged(f"{name}.weight", matrix), matrix.T)
    for name in ("embed_tokens.weight", "multi_modal_projector.mm_input_projection_weight"):
        np.testing.assert_array_equal(arranged(name, matrix), matrix)
    for name in ("layer_norm1.weight", "layer_norm1.bias", "mlp.fc1.bias"):
        found = arranged(f"vision_tower.encoder.layers.0.{name}", vector)
        np.testing.assert_array_equal(found, vector)
