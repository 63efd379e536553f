"""The one place where preprocessing meets TensorFlow: functions traced by `tf.data`."""

import itertools
import sys

import keras
import numpy as np


def is_traced():
    """Whether a TensorFlow graph is being built, as in `tf.data.Dataset.map`."""
    tensorflow = sys.modules.get("tensorflow")
    # What an uninstalled TensorFlow leaves behind imports as an empty package.
    return hasattr(tensorflow, "executing_eagerly") and not tensorflow.executing_eagerly()


def tensors_of(features):
    """A dict of the dense tensors of a dict of features, those that are `None` left out."""
    import tensorflow as tf

    for name, feature in features.items():
        if isinstance(feature, (tf.RaggedTensor, tf.SparseTensor)):
            raise ValueError(
                "A traced pipeline must hold dense tensors. Received: "
                f"{name} of type {type(feature).__name__}"
            )
    return {n: tf.convert_to_tensor(f) for n, f in features.items() if f is not None}


def static_axes(tensors):
    """The batch axis, () for a single row, and the number of images of a row, `None` if unknown.

    The same reading of the input as that of `parse_rows`, from the ranks alone.
    """
    text = tensors.get("encoder_text", tensors.get("decoder_text"))
    images = tensors.get("images")
    if images is None:
        return tuple(text.shape), 0
    # The axes before those of one image, which is a path or (height, width, channels).
    axes = images.shape if images.dtype.name == "string" else images.shape[:-3]
    if text is None:
        batch = axes[:1] if len(axes) == 2 else ()
    else:
        batch = text.shape
    of_row = axes[len(batch) :]
    return tuple(batch), of_row[0] if len(of_row) else 1


def numpy_call(function, arguments, outputs):
    """Puts a function of numpy arrays into the graph that is being built.

    Args:
        function: takes one numpy array per argument and gives one array per output. Arrays of
            strings hold `bytes`.
        arguments: list of symbolic tensors.
        outputs: list of (dtype, shape) pairs, `None` for sizes known only later.

    Returns:
        A list of symbolic tensors, one per output.
    """
    import tensorflow as tf

    def of_arrays(*values):
        # TensorFlow unwraps a single string.
        return function(*(np.asarray(v, object) if isinstance(v, bytes) else v for v in values))

    dtypes = [tf.as_dtype(dtype) for dtype, _ in outputs]
    tensors = tf.numpy_function(of_arrays, arguments, dtypes)
    for tensor, (_, shape) in zip(tensors, outputs, strict=True):
        tensor.set_shape(shape)
    return tensors


def dataset_of(batches, example, read_ahead, lengths_differ):
    """A `tf.data.Dataset` for the training loop on TensorFlow.

    Args:
        batches: function without arguments to an iterator over batches of numpy arrays.
        example: one of the batches. The batch and the images axis of others may differ.
        read_ahead: bool. Whether the next batch is made while a step runs.
        lengths_differ: bool. Whether the number of tokens may differ, too.
    """
    import tensorflow as tf

    def spec(array):
        free = min(2, array.ndim) if array.ndim > 2 or lengths_differ else 1
        return tf.TensorSpec((*[None] * free, *array.shape[free:]), array.dtype)

    signature = keras.tree.map_structure(spec, example)
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return dataset.prefetch(1) if read_ahead else dataset


def ragged_rows(function, texts):
    """The ragged ids of strings, in the graph that is being built.

    Args:
        function: takes a list of strings or bytes and gives a list of ids for each.
        texts: one string or a vector of them.

    Returns:
        A `tf.RaggedTensor` (strings, ids), or a vector of ids for one string.
    """
    import tensorflow as tf

    texts = tf.convert_to_tensor(texts)
    if texts.dtype != tf.string or texts.shape.rank not in (0, 1):
        raise TypeError(
            "`inputs` must be one string or a vector of strings. "
            f"Received: dtype={texts.dtype.name}, shape={texts.shape}"
        )

    def flat_ids_and_lengths(values):
        rows = function(np.atleast_1d(values).tolist())
        ids = np.fromiter(itertools.chain.from_iterable(rows), "int32")
        return ids, np.array([len(row) for row in rows], "int64")

    outputs = [("int32", (None,)), ("int64", texts.shape if texts.shape.rank else (1,))]
    ids, lengths = numpy_call(flat_ids_and_lengths, [texts], outputs)
    return tf.RaggedTensor.from_row_lengths(ids, lengths) if texts.shape.rank else ids
