"""What is known of the sizes of an export."""

import keras
import pytest
from tasks import small_task

from keras_t5gemma2.export.formats import Sizes, checked_sizes

BACKEND = keras.config.backend()
FORMAT = "torch" if BACKEND == "torch" else "tf_saved_model"


@pytest.mark.once
def test_a_decoder_has_room_for_256_new_tokens_and_no_more_than_its_cap():
    lm = small_task()
    for cap, found in ((1_000, 2 + 256), (100, 100)):
        lm.preprocessor.set_lengths(decoder_sequence_length=cap)
        sizes = checked_sizes(lm, FORMAT, Sizes(1, 8, 2, None, 0))
        assert sizes == Sizes(1, 8, 2, found, 0)


@pytest.mark.once
def test_sizes_are_counts():
    lm = small_task()
    with pytest.raises(ValueError, match="`encoder_length` must be an integer of at least 1"):
        checked_sizes(lm, FORMAT, Sizes(1, 0, 1, 8, 0))
    with pytest.raises(ValueError, match="must leave room for a token after the prompt"):
        checked_sizes(lm, FORMAT, Sizes(1, 8, 8, 8, 0))
