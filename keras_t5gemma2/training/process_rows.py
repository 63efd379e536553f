"""Which rows of a batch this process reads, where several train one model."""

import keras
import numpy as np

from keras_t5gemma2.kernels.runtime import processes
from keras_t5gemma2.training.distillation import split_targets


def part_of_batch(batch):
    """This process's rows of a batch of arrays that all processes have made alike.

    Of every process and every device as many: rows that weigh nothing fill the batch up. As it is
    stays a batch without labels, and a single row that the distribution gives to all devices.

    Args:
        batch: (x, labels) or (x, labels, weights).

    Raises:
        ValueError: there are several processes of JAX, and no distribution joins their devices.
    """
    parts, replicas = _parts_and_replicas()
    if parts == 1:
        return batch
    x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
    if y is None:
        return batch
    labels, _ = split_targets(y)
    if len(labels) == 1 and _is_given_to_all():
        return batch
    if weights is None:
        weights = np.ones(labels.shape, "float32")
    rows = np.arange(len(labels))
    missing = -len(rows) % replicas
    rows, weights = np.append(rows, rows[[0] * missing]), weights[: len(rows)]
    weights = np.concatenate([weights, np.zeros((missing, *weights.shape[1:]), weights.dtype)])
    size = len(rows) // parts
    here = slice(_part() * size, (_part() + 1) * size)
    x, y = keras.tree.map_structure(lambda values: values[rows[here]], (x, y))
    return x, y, weights[here]


def _parts_and_replicas():
    """In how many parts a batch is read, and in how many it is computed."""
    distribution = keras.distribution.distribution()
    if distribution is not None:
        replicas = distribution.num_model_replicas
        return min(replicas, distribution.num_processes), replicas
    count = processes.count()
    if count > 1 and keras.config.backend() == "jax":
        raise ValueError(
            "Several processes train one model only where a distribution joins their devices. "
            f"Received: {count} processes and no distribution. Call "
            "`keras.distribution.set_distribution` before the model is made"
        )
    return count, count


def _is_given_to_all():
    distribution = keras.distribution.distribution()
    return distribution is not None and distribution.get_data_layout((1,)).axes[0] is None


def _part():
    distribution = keras.distribution.distribution()
    return processes.index() if distribution is None else distribution.data_shard_id
