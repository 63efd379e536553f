"""What the reference's files call each weight, and how they lay it out: one table.

The same rows serve reading and writing. Published files name the same tensors in several ways;
the table holds one of them, and `canonical_name` takes the others to it.
"""

from typing import NamedTuple

from keras_t5gemma2.files.layout import AS_IS, CONVOLUTION, LINEAR, Layout


class Row(NamedTuple):
    """One weight: the reference's name, the variable's path, and the layout between them."""

    name: str
    path: str
    layout: Layout = AS_IS


_TABLE = Row("model.encoder.embed_tokens.weight", "embedder/table/embeddings")
_END_OF_IMAGE = Row("model.encoder.embed_tokens.eoi_embedding", "embedder/end_of_image")
_DECODER_TABLE = Row("model.decoder.embed_tokens.weight", "decoder_embedder/table/embeddings")
_LAYER = (
    Row("pre_self_attn_layernorm.weight", "attention_norm/scale"),
    Row("self_attn.q_proj.weight", "attention/query/kernel", LINEAR),
    Row("self_attn.k_proj.weight", "attention/key/kernel", LINEAR),
    Row("self_attn.v_proj.weight", "attention/value/kernel", LINEAR),
    Row("self_attn.o_proj.weight", "attention/output/kernel", LINEAR),
    Row("self_attn.q_norm.weight", "attention/query_norm/scale"),
    Row("self_attn.k_norm.weight", "attention/key_norm/scale"),
    Row("post_self_attn_layernorm.weight", "attention_output_norm/scale"),
    Row("pre_feedforward_layernorm.weight", "mlp_norm/scale"),
    Row("mlp.gate_proj.weight", "mlp/gate/kernel", LINEAR),
    Row("mlp.up_proj.weight", "mlp/up/kernel", LINEAR),
    Row("mlp.down_proj.weight", "mlp/down/kernel", LINEAR),
    Row("post_feedforward_layernorm.weight", "mlp_output_norm/scale"),
)
_CROSS_ATTENTION = (
    Row("pre_cross_attn_layernorm.weight", "cross_attention_norm/scale"),
    Row("cross_attn.q_proj.weight", "cross_attention/query/kernel", LINEAR),
    Row("cross_attn.k_proj.weight", "cross_attention/key/kernel", LINEAR),
    Row("cross_attn.v_proj.weight", "cross_attention/value/kernel", LINEAR),
    Row("cross_attn.o_proj.weight", "cross_attention/output/kernel", LINEAR),
    Row("post_cross_attn_layernorm.weight", "cross_attention_output_norm/scale"),
)
_OF_QK_NORM = ("query_norm/scale", "key_norm/scale")
# No format but our own has them; the names are only for messages.
_ROUTER = (Row("mlp.router.weight", "mlp/router"),)
_EXPERT = (
    Row("gate_proj.weight", "gate/kernel", LINEAR),
    Row("up_proj.weight", "up/kernel", LINEAR),
    Row("down_proj.weight", "down/kernel", LINEAR),
)
_LAST_NORM = (Row("norm.weight", "norm/scale"),)
_TOWER = (
    Row("embeddings.patch_embedding.weight", "patch_embedding/kernel", CONVOLUTION),
    Row("embeddings.patch_embedding.bias", "patch_embedding/bias"),
    Row("embeddings.position_embedding.weight", "position_embedding"),
    Row("post_layernorm.weight", "norm/gamma"),
    Row("post_layernorm.bias", "norm/beta"),
)
_TOWER_LAYER = (
    Row("layer_norm1.weight", "attention_norm/gamma"),
    Row("layer_norm1.bias", "attention_norm/beta"),
    Row("self_attn.q_proj.weight", "query/kernel", LINEAR),
    Row("self_attn.q_proj.bias", "query/bias"),
    Row("self_attn.k_proj.weight", "key/kernel", LINEAR),
    Row("self_attn.k_proj.bias", "key/bias"),
    Row("self_attn.v_proj.weight", "value/kernel", LINEAR),
    Row("self_attn.v_proj.bias", "value/bias"),
    Row("self_attn.out_proj.weight", "output/kernel", LINEAR),
    Row("self_attn.out_proj.bias", "output/bias"),
    Row("layer_norm2.weight", "mlp_norm/gamma"),
    Row("layer_norm2.bias", "mlp_norm/beta"),
    Row("mlp.fc1.weight", "up/kernel", LINEAR),
    Row("mlp.fc1.bias", "up/bias"),
    Row("mlp.fc2.weight", "down/kernel", LINEAR),
    Row("mlp.fc2.bias", "down/bias"),
)
_PROJECTOR = (
    Row("mm_soft_emb_norm.weight", "norm/scale"),
    # The one matrix that the reference itself keeps as (in, out).
    Row("mm_input_projection_weight", "projection/kernel"),
)

_VISION_PREFIXES = ("model.encoder.vision_tower.", "model.encoder.multi_modal_projector.")
# Weights that the reference ties; a file may hold them all, and then they must be equal.
_TIED = {
    "lm_head.out_proj.weight": "model.encoder.embed_tokens.weight",
    "model.decoder.embed_tokens.weight": "model.encoder.embed_tokens.weight",
    "model.decoder.embed_tokens.eoi_embedding": "model.encoder.embed_tokens.eoi_embedding",
}
# Where the decoder has a table of its own.
_TIED_TO_DECODER = {"lm_head.out_proj.weight": _DECODER_TABLE.name}
_TEXT_MODEL = ("model.encoder.text_model.", "model.encoder.")
_PUBLISHED_TOWER = ("model.encoder.vision_tower.vision_model.", "model.encoder.vision_tower.")
_OTHER_PREFIXES = (_TEXT_MODEL, _PUBLISHED_TOWER)
# What an encoder that was saved without its model holds at the top.
_ENCODER_PARTS = (
    *("text_model.", "vision_tower.", "multi_modal_projector."),
    *("embed_tokens.", "layers.", "norm."),
)


def _with_experts(count):
    rows = [row for row in _LAYER if not row.path.startswith("mlp/")]
    for i in range(count):
        rows += _under(f"mlp.experts.{i}.", f"mlp/expert_{i}/", _EXPERT)
    return (*rows, *_ROUTER)


def rows(config):
    """Every weight of a model, as a list of `Row`.

    Args:
        config: `BackboneConfig`.

    Example:

    >>> from keras_t5gemma2 import AttentionConfig, BackboneConfig, StackConfig
    >>> local = AttentionConfig(num_heads=4, num_kv_heads=1, head_dim=8, window=6)
    >>> stack = StackConfig(hidden_dim=32, mlp_dim=48, layers=(local,))
    >>> config = BackboneConfig(vocabulary_size=101, encoder=stack, decoder=stack)
    >>> rows(config)[0].name, rows(config)[-1].path
    ('model.encoder.embed_tokens.weight', 'decoder/norm/scale')
    """
    found = [_TABLE]
    if config.end_of_image_token_id is not None:
        found.append(_END_OF_IMAGE)
    if config.decoder_table:
        found.append(_DECODER_TABLE)
    if config.vision is not None:
        found += _under("model.encoder.vision_tower.", "vision/tower/", _TOWER)
        for i in range(config.vision.num_layers):
            name = f"model.encoder.vision_tower.encoder.layers.{i}."
            found += _under(name, f"vision/tower/layer_{i}/", _TOWER_LAYER)
        found += _under("model.encoder.multi_modal_projector.", "vision/projector/", _PROJECTOR)
    for stack, sizes in config.stacks.items():
        for i, layer in enumerate(sizes.layers):
            of_layer = _LAYER
            if sizes.has_experts(i):
                of_layer = _with_experts(sizes.experts.num_experts)
            table = [row for row in of_layer if layer.qk_norm or not row.path.endswith(_OF_QK_NORM)]
            if sizes.cross_attention_dim is not None:
                table += _CROSS_ATTENTION
            found += _under(f"model.{stack}.layers.{i}.", f"{stack}/layer_{i}/", table)
        found += _under(f"model.{stack}.", f"{stack}/", _LAST_NORM)
    return found


def canonical_name(name, decoder_table=False):
    """The table's name of a tensor, from any of the names that the reference has given it.

    Tied weights have one name: that of the encoder's table or, with `decoder_table`, of the
    decoder's. A name that is none of the reference's comes back unchanged.

    >>> canonical_name("encoder.text_model.layers.3.mlp.up_proj.weight")
    'model.encoder.layers.3.mlp.up_proj.weight'
    >>> canonical_name("model.encoder.vision_tower.vision_model.post_layernorm.bias")
    'model.encoder.vision_tower.post_layernorm.bias'
    >>> canonical_name("lm_head.out_proj.weight")
    'model.encoder.embed_tokens.weight'
    """
    name = _untied_name(name)
    return (_TIED_TO_DECODER if decoder_table else _TIED).get(name, name)


def is_copy(name, decoder_table=False):
    """Whether a tensor of any name only repeats another, to which the reference ties it."""
    return _untied_name(name) in (_TIED_TO_DECODER if decoder_table else _TIED)


def _untied_name(name):
    if name.startswith(_ENCODER_PARTS):
        name = f"encoder.{name}"
    if name.startswith(("encoder.", "decoder.")):
        name = f"model.{name}"
    for other, prefix in _OTHER_PREFIXES:
        if name.startswith(other):
            name = prefix + name.removeprefix(other)
    return name


def is_decoder_name(name):
    """Whether a canonical name is one of the decoder's."""
    return name.startswith("model.decoder.")


def is_vision_name(name):
    """Whether a canonical name is one of the vision tower's or of the projector's."""
    return name.startswith(_VISION_PREFIXES)


def published_name(name):
    """What published files call a tensor of the table.

    >>> published_name("model.encoder.vision_tower.post_layernorm.bias")
    'model.encoder.vision_tower.vision_model.post_layernorm.bias'
    >>> published_name("model.encoder.layers.3.mlp.up_proj.weight")
    'model.encoder.layers.3.mlp.up_proj.weight'
    """
    published, table = _PUBLISHED_TOWER
    return published + name.removeprefix(table) if name.startswith(table) else name


def encoder_name(name, generation=2):
    """What the reference's encoder alone calls a tensor of the table.

    >>> encoder_name("model.encoder.layers.3.mlp.up_proj.weight")
    'text_model.layers.3.mlp.up_proj.weight'
    >>> encoder_name("model.encoder.vision_tower.post_layernorm.bias")
    'vision_tower.post_layernorm.bias'
    """
    if generation == 1:
        return name.removeprefix("model.")
    module, file = _TEXT_MODEL
    if not is_vision_name(name):
        name = module + name.removeprefix(file)
    return name.removeprefix("model.encoder.")


def module_name(name, generation=2):
    """What the reference's model calls the module in a stack that owns a tensor of the table.

    The modules of T5Gemma 2 have one more level than the names in published files.

    >>> module_name("model.encoder.layers.3.mlp.up_proj.weight")
    'model.encoder.text_model.layers.3.mlp.up_proj'
    """
    module, file = _TEXT_MODEL
    name = name.rpartition(".")[0]
    if generation == 1:
        return name
    return module + name.removeprefix(file) if name.startswith(file) else name


def _under(name_prefix, path_prefix, table):
    return [Row(name_prefix + row.name, path_prefix + row.path, row.layout) for row in table]
