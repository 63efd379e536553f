"""Rows of very different lengths, and the shapes of the batches that are made of them."""

import keras

from keras_t5gemma2.training.batches import Batches

CAPS = {"encoder_sequence_length": 200, "decoder_sequence_length": 150}
WORDS = "the cat and a red bee is in the garden of a house"
# Rows of 0 to 5 times thirteen words: batches of two are of several lengths on either side.
ROWS = {
    "encoder_text": ["", WORDS, *[f"{WORDS} " * n for n in (5, 1, 3, 2)]],
    "decoder_text": ["a dog", *[f"{WORDS} " * n for n in (1, 1, 4, 2, 3)]],
}


def shapes_of_batches(monkeypatch):
    """Of the encoder and the decoder in each batch that is read, a list that grows."""
    found, read = [], Batches.get_numpy_iterator

    def reading(self):
        for batch in read(self):
            x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
            found.append((x["encoder_token_ids"].shape, x["decoder_token_ids"].shape))
            yield batch

    monkeypatch.setattr(Batches, "get_numpy_iterator", reading)
    return found
