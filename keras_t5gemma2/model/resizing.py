"""A backbone with other rows in its tables, and all else as it is."""

import numpy as np

from keras_t5gemma2.files.tensors import StoredTensor
from keras_t5gemma2.kernels.runtime.host_memory import host_array
from keras_t5gemma2.lora.targets import dense_layers
from keras_t5gemma2.model.loading import build_with_weights


def with_rows(backbone, kept, new_rows=None, **ids):
    """A new backbone whose tables hold some rows of another one's, and further ones behind them.

    Its weights are copies, one of which is made at a time. Adapters stay behind, unless they are
    merged. Weights of integers stay as they are; new rows are quantized as the table is.

    Args:
        backbone: `T5Gemma2Backbone`, which stays as it is.
        kept: (rows,) integers, the rows of its table in the order of the new one.
        new_rows: (more, hidden_dim) floats that follow these, or `None`; for two tables a pair.
        **ids: `end_of_image_token_id` and `image_token_id`, where they are others now.

    Returns:
        A backbone of the same class.
    """
    tables = tables_of(backbone)
    of_tables = new_rows if len(tables) > 1 and new_rows is not None else [new_rows] * len(tables)
    more = 0 if of_tables[0] is None else len(of_tables[0])
    fields = backbone.get_config()
    fields["config"] = {**fields["config"], "vocabulary_size": len(kept) + more, **ids}
    added = {}
    for table, rows in zip(tables, of_tables, strict=True):
        added |= _stored_rows(table, rows)
    of_adapters = {id(variable) for variable in adapter_variables(backbone)}
    tensors = {}
    for variable in backbone.weights:
        if id(variable) not in of_adapters:
            rows = added.get(variable.path)
            tensors[variable.path] = copied(variable, kept if rows is not None else None, rows)
    made = build_with_weights(
        lambda: type(backbone).from_config(fields), tensors, allow_nonfinite=True
    )
    if backbone.vision is not None:
        made.vision.tower.trainable = backbone.vision.tower.trainable
    return made


def tables_of(backbone):
    """The embedding tables: the one, or that of the encoder and that of the decoder."""
    embedders = (backbone.embedder, backbone.decoder_embedder)
    return [embedder.table for embedder in embedders if embedder is not None]


def rows_of_table(table, ids):
    """(len(ids), hidden_dim) float32: rows of an embedding table, of integers too."""
    return host_array(table(np.asarray(ids, "int32"))).astype("float32")


def _stored_rows(table, new_rows):
    """For each variable of the table with a row per token, by path: what new rows are there."""
    if not table.has_integers:
        variables = [table.matrix_variable]
    else:
        variables = table.code_variables
    if new_rows is None:
        values = [None] * len(variables)
    elif not table.has_integers:
        values = [new_rows]
    else:
        values = table.codes_of(new_rows)
    return {
        variable.path: np.zeros((0, *variable.shape[1:])) if rows is None else rows
        for variable, rows in zip(variables, values, strict=False)
    }


def copied(variable, kept, new_rows):
    """The values of a variable, or of some of its rows and new ones, as a `StoredTensor`."""

    def read():
        values = host_array(variable.value)
        if kept is not None:
            values = values[kept]
            if len(new_rows):
                values = np.concatenate([values, new_rows.astype(values.dtype)])
            return values
        values = values.view()
        values.setflags(write=False)  # or it would be taken over
        return values

    shape = tuple(variable.shape)
    if kept is not None:
        shape = (len(kept) + len(new_rows), *shape[1:])
    return StoredTensor(variable.path, shape, read)


def adapter_variables(backbone):
    for layer in dense_layers(backbone).values():
        for adapter in layer.adapters.values():
            yield from adapter.variables.values()
