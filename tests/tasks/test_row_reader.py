"""Rows through the encoder: arrays in place of texts, and what does not fit them."""

import numpy as np
import pytest

from keras_t5gemma2 import T5Gemma2TextEmbedder

pytestmark = pytest.mark.once


def test_arrays_give_what_texts_give():
    embedder = T5Gemma2TextEmbedder.from_preset("t5gemma2_tiny", text_only=True)
    texts = ["Spell 7 in Dutch.", "a"]
    want = embedder.encode_text(texts)
    arrays = embedder.preprocessor.generate_preprocess(texts)
    embedder.preprocessor = None
    np.testing.assert_allclose(embedder.encode_text(arrays), want, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="`length` must be left out.*length=8"):
        embedder.hidden_states(arrays, length=8)
    with pytest.raises(ValueError, match="The arrays must hold `encoder_token_ids`"):
        embedder.encode_text({"encoder_padding_mask": arrays["encoder_padding_mask"]})
