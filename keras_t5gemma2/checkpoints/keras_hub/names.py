"""Where keras-hub's own T5Gemma keeps each weight in its file, and in which shape: one table.

Keras names what it stores after classes and attributes: the second layer of a class is
`t5_gemma2_encoder_layer_1`. The same rows serve reading and writing.
"""

import dataclasses
from typing import NamedTuple

from keras_t5gemma2.files.layout import AS_IS


@dataclasses.dataclass(frozen=True)
class Heads:
    """A tensor whose heads have an axis of their own, which the variable has not.

    Args:
        axis: int. The axis of the heads; in the file that of their width follows.
        count: int. How many heads there are.

    >>> Heads(1, 3).from_variable_shape((5, 21))
    (5, 3, 7)
    """

    axis: int
    count: int

    def to_variable(self, array):
        shape = array.shape
        return array.reshape(*shape[: self.axis], -1, *shape[self.axis + 2 :])

    def to_variable_shape(self, shape):
        """The shape of a variable whose shape in a file is `shape`."""
        heads, width = shape[self.axis : self.axis + 2]
        return (*shape[: self.axis], heads * width, *shape[self.axis + 2 :])

    def from_variable_shape(self, shape):
        """The shape in a file of a variable of shape `shape`."""
        before, width, after = shape[: self.axis], shape[self.axis], shape[self.axis + 1 :]
        return (*before, self.count, width // self.count, *after)


class Row(NamedTuple):
    """One weight: its path in keras-hub's file, its variable's path, and how they differ."""

    name: str
    path: str
    layout: object = AS_IS


# keras-hub has two of what T5Gemma 2 has one: of the encoder, and of the decoder.
TABLES = ("layers/embedding/vars/0", "layers/reversible_embedding/vars/0")
ENDS_OF_IMAGE = ("vars/0", "vars/1")

_TABLE = Row(TABLES[0], "embedder/table/embeddings")
_DECODER_TABLE = Row(TABLES[1], "decoder_embedder/table/embeddings")
_END_OF_IMAGE = Row(ENDS_OF_IMAGE[0], "embedder/end_of_image")
_LAYER = (
    Row("pre_self_attn_layernorm/vars/0", "attention_norm/scale"),
    Row("{attention}/query_norm/vars/0", "attention/query_norm/scale"),
    Row("{attention}/key_norm/vars/0", "attention/key_norm/scale"),
    Row("post_self_attn_layernorm/vars/0", "attention_output_norm/scale"),
    Row("pre_feedforward_layernorm/vars/0", "mlp_norm/scale"),
    Row("mlp/gate_proj/vars/0", "mlp/gate/kernel"),
    Row("mlp/up_proj/vars/0", "mlp/up/kernel"),
    Row("mlp/down_proj/vars/0", "mlp/down/kernel"),
    Row("post_feedforward_layernorm/vars/0", "mlp_output_norm/scale"),
)
_CROSS_NORMS = (
    Row("pre_cross_attn_layernorm/vars/0", "cross_attention_norm/scale"),
    Row("post_cross_attn_layernorm/vars/0", "cross_attention_output_norm/scale"),
)
_OF_QK_NORM = ("query_norm/scale", "key_norm/scale")
_ATTENTION = (
    # path in the file, path of the variable, axis of the heads, whose heads
    ("{attention}/query_dense/vars/0", "attention/query/kernel", 1, "num_heads"),
    ("{attention}/key_dense/vars/0", "attention/key/kernel", 1, "num_kv_heads"),
    ("{attention}/value_dense/vars/0", "attention/value/kernel", 1, "num_kv_heads"),
    ("{attention}/output_dense/vars/0", "attention/output/kernel", 0, "num_heads"),
)
# Stack: its layers' class, the name of their attention, and where its last norm is.
_STACKS = {
    (2, "encoder"): ("t5_gemma2_encoder_layer", "self_attn", "layers/rms_normalization/vars/0"),
    (2, "decoder"): ("t5_gemma2_decoder_layer", "merged_attn", "layers/rms_normalization_1/vars/0"),
    (1, "encoder"): ("t5_gemma_encoder_layer", "self_attn", "layers/rms_normalization/vars/0"),
    (1, "decoder"): ("t5_gemma_decoder_layer", "self_attn", "layers/rms_normalization_1/vars/0"),
}
_VISION = "layers/gemma3_vision_encoder/layers/"
_TOWER = (
    Row("vision_embeddings/patch_embedding/vars/0", "patch_embedding/kernel"),
    Row("vision_embeddings/patch_embedding/vars/1", "patch_embedding/bias"),
    Row("vision_embeddings/position_embedding/vars/0", "position_embedding"),
    Row("encoder_layer_norm/vars/0", "norm/gamma"),
    Row("encoder_layer_norm/vars/1", "norm/beta"),
)
_TOWER_LAYER = (
    Row("layer_norm_1/vars/0", "attention_norm/gamma"),
    Row("layer_norm_1/vars/1", "attention_norm/beta"),
    Row("attn/query_proj/vars/0", "query/kernel"),
    Row("attn/query_proj/vars/1", "query/bias"),
    Row("attn/key_proj/vars/0", "key/kernel"),
    Row("attn/key_proj/vars/1", "key/bias"),
    Row("attn/value_proj/vars/0", "value/kernel"),
    Row("attn/value_proj/vars/1", "value/bias"),
    Row("attn/out_proj/vars/0", "output/kernel"),
    Row("attn/out_proj/vars/1", "output/bias"),
    Row("layer_norm_2/vars/0", "mlp_norm/gamma"),
    Row("layer_norm_2/vars/1", "mlp_norm/beta"),
    Row("mlp_dense_1/vars/0", "up/kernel"),
    Row("mlp_dense_1/vars/1", "up/bias"),
    Row("mlp_dense_2/vars/0", "down/kernel"),
    Row("mlp_dense_2/vars/1", "down/bias"),
)
_PROJECTOR = (
    Row("vision_soft_embedding_norm/vars/0", "norm/scale"),
    Row("vision_input_projection/vars/0", "projection/kernel"),
)


def rows(config):
    """Every weight of a model, as a list of `Row`; of a pair in the file its first.

    Args:
        config: `BackboneConfig`. Without a vision part, the file of a T5Gemma 2 has no vector for
            the end of an image, and there is a row for it all the same.
    """
    found = [_TABLE]
    if config.end_of_image_token_id is not None:
        found.append(_END_OF_IMAGE)
    if config.decoder_table:
        found.append(_DECODER_TABLE)
    if config.vision is not None:
        found += _under(f"{_VISION}gemma3_vision_encoder_block/", "vision/tower/", _TOWER)
        for i in range(config.vision.num_layers):
            name = f"{_VISION}gemma3_vision_encoder_block/resblocks/"
            name += f"{_numbered('gemma3_vision_encoder_layer', i)}/"
            found += _under(name, f"vision/tower/layer_{i}/", _TOWER_LAYER)
        found += _under(f"{_VISION}gemma3_vision_output/", "vision/projector/", _PROJECTOR)
    for stack, sizes in config.stacks.items():
        layer_class, attention, last_norm = _STACKS[config.generation, stack]
        for i, layer in enumerate(sizes.layers):
            name, path = f"layers/{_numbered(layer_class, i)}/", f"{stack}/layer_{i}/"
            table = [row for row in _LAYER if layer.qk_norm or not row.path.endswith(_OF_QK_NORM)]
            table += _attention_rows(layer)
            if sizes.cross_attention_dim is not None:
                table += [*_CROSS_NORMS, *_of_cross(_attention_rows(layer))]
            named = [row._replace(name=row.name.format(attention=attention)) for row in table]
            found += _under(name, path, named)
        found.append(Row(last_norm, f"{stack}/norm/scale"))
    return found


def copies(name, generation=2):
    """All paths in the file of what the model has once, the path of a row first."""
    if generation == 1:
        return (name,)
    return next((pair for pair in (TABLES, ENDS_OF_IMAGE) if name in pair), (name,))


def is_decoder_name(name):
    """Whether a path in the file is one of the decoder's layers or of its last norm."""
    classes = tuple(f"layers/{_STACKS[number, 'decoder'][0]}" for number in (1, 2))
    return name.startswith(classes) or name == _STACKS[2, "decoder"][2]


def is_vision_name(name):
    """Whether a path in the file is one of the vision tower's or of the projector's."""
    return name.startswith(_VISION)


def _attention_rows(layer):
    return [
        Row(name, path, Heads(axis, getattr(layer, heads)))
        for name, path, axis, heads in _ATTENTION
    ]


def _of_cross(rows):
    return [
        Row(row.name.format(attention="cross_attn"), f"cross_{row.path}", row.layout)
        for row in rows
    ]


def _numbered(name, index):
    return f"{name}_{index}" if index else name


def _under(name_prefix, path_prefix, table):
    return [Row(name_prefix + row.name, path_prefix + row.path, row.layout) for row in table]
