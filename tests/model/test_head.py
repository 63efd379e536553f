"""The head of classifiers, and what the decoder reads for it."""

import numpy as np
from keras import ops

from keras_t5gemma2.model.head import ClassifierHead, ShiftRight


def test_a_head_is_a_matrix_with_a_bias_behind_a_hidden_layer():
    x = np.random.default_rng(0).normal(size=(2, 4, 5)).astype("float32")
    head = ClassifierHead(num_classes=3, hidden_dim=7, dropout=0.5, activation="softmax")
    got = ops.convert_to_numpy(head(x))
    hidden, bias, output, last = (ops.convert_to_numpy(weight) for weight in head.weights)
    logits = np.tanh(x @ hidden + bias) @ output + last
    want = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    again = ClassifierHead.from_config(head.get_config())
    assert (again.hidden_dim, again.activation) == (7, head.activation)


def test_tokens_move_right_behind_the_start_wherever_padding_is():
    ids = np.array([[5, 6, 7, 0], [0, 0, 8, 9]])
    mask = np.array([[1, 1, 1, 0], [0, 0, 1, 1]])
    got = ops.convert_to_numpy(ShiftRight(2)(ids, mask))
    assert [row[seen == 1].tolist() for row, seen in zip(got, mask, strict=True)] == [
        *([2, 5, 6], [2, 8])
    ]
