"""The inputs of the layers over rows, padding left out."""

import keras
import numpy as np
import pytest
from keras import ops
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2.adapters.activations import principal_inputs
from keras_t5gemma2.lora.watching import watching

KEY, QUERY, DOWN = "decoder/layer_0/attention/key", "encoder/layer_0/attention/query", "down"


def every_input(lm, rows, path):
    """The inputs of a layer, a row at a time and so without any padding."""
    found = []
    for text, target in zip(rows["encoder_text"], rows["decoder_text"], strict=True):
        x, *_ = lm.preprocessor.call([{"encoder_text": text, "decoder_text": target}])
        for side in ("encoder", "decoder"):
            count = int(x[f"{side}_padding_mask"].sum())
            for name in (f"{side}_token_ids", f"{side}_padding_mask"):
                x[name] = x[name][:, :count]

        def see(layer, values):
            if layer.path == path:
                found.append(ops.convert_to_numpy(values)[0])

        with watching(see):
            lm.backbone(lm.backbone.complete(x), training=False)
    return np.concatenate(found)


@pytest.mark.once
@pytest.mark.parametrize("path", [QUERY, KEY])
def test_components_are_those_of_all_tokens_one_by_one(path):
    """Of a key of the decoder the tokens of both sides."""
    lm = small_task()
    want = every_input(lm, SMALL_ROWS, path)
    found = principal_inputs(lm, SMALL_ROWS, {path: 4}, batch_size=2)[path]
    assert found.seen == len(want)
    _, lengths, components = np.linalg.svd(want - want.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(found.shares[:4], (lengths**2 / np.sum(lengths**2))[:4], rtol=1e-3)
    cosines = np.abs(np.sum(found.components[:4] * components[:4], axis=1))
    np.testing.assert_allclose(cosines, 1, atol=1e-3)


@pytest.mark.once
def test_too_few_tokens_are_refused():
    lm = small_task()
    rows = {"encoder_text": ["a"], "decoder_text": ["a"]}
    with pytest.raises(ValueError, match="`data` must have more tokens.*Received: . tokens"):
        principal_inputs(lm, rows, {QUERY: 20})
    assert keras.config.backend()
