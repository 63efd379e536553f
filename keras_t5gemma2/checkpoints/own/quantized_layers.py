"""Which layers of a preset are quantized, and where Keras's file has each layer's variables."""

import re

from keras_t5gemma2.checkpoints.transformers import names
from keras_t5gemma2.files.layout import AS_IS
from keras_t5gemma2.messages import shown
from keras_t5gemma2.quantization.plans import is_mode, saved_variables

_SECOND_VARIABLES = ("bias", "beta")
_MATRICES = ("kernel", "embeddings")
_TABLES = ("embedder/table", "decoder_embedder/table")
# The kernel of a convolution, which is never quantized.
_NO_MATRIX = "vision/tower/patch_embedding"


def quantized_layers(path, config, modes):
    """What a preset says of its quantized layers, checked: modes, as "int4/32", by their paths.

    Args:
        path: what errors call the file.
        config: `BackboneConfig`. The layers of a part that it has not are left out.
        modes: what the file has; nothing where the preset is one of floats.

    Raises:
        ValueError: it has a layer that this model has not, or a mode that is none.
    """
    if not modes:
        return {}
    if not isinstance(modes, dict):
        raise ValueError(
            f"`config.quantized_layers` of {path} must be an object of modes by the paths of "
            f"layers. Received: {shown(modes)}"
        )
    parts = {"vision/": config.vision}
    parts |= dict.fromkeys(("decoder/", "decoder_embedder/"), config.decoder)
    left_out = tuple(prefix for prefix, part in parts.items() if part is None)
    modes = {k: mode for k, mode in modes.items() if not k.startswith(left_out)}
    known = _layers_with_a_matrix(config)
    for layer, mode in modes.items():
        is_fit = layer in known and is_mode(mode)
        if not is_fit or (layer in _TABLES and not mode.startswith(("int", "fp8"))):
            raise ValueError(
                f"`config.quantized_layers` of {path} must give layers that have a matrix a mode "
                f"such as int8 or int4/32. Received: {shown(mode)} for {shown(layer)}"
            )
    return modes


def rows_in_file(config, modes):
    """What Keras's file of a backbone holds.

    Args:
        config: `BackboneConfig`.
        modes: what `quantized_layers` gave.

    Returns:
        List of (name of the array, path of the variable, layout), and a dict of the types of
        those that are integers by the paths of their variables.
    """
    paths = [row.path for row in names.rows(config)]
    rows, integers = [], {}
    for path in paths:
        owner, _, matrix = path.rpartition("/")
        if owner not in modes:
            rows.append((name_in_file(path), path, AS_IS))
        elif matrix in _MATRICES:
            place = name_in_file(path).rpartition("/")[0]
            saved = saved_variables(modes[owner], matrix, has_bias=f"{owner}/bias" in paths)
            for i, (name, integer) in enumerate(saved.items()):
                rows.append((f"{place}/{i}", f"{owner}/{name}", AS_IS))
                integers |= {f"{owner}/{name}": integer} if integer else {}
    return rows, integers


def name_in_file(path):
    """Where Keras keeps a variable of the backbone in its file.

    >>> name_in_file("encoder/layer_3/attention/output/kernel")
    'layers/encoder/blocks/block_3/attention/output_dense/vars/0'
    >>> name_in_file("vision/tower/layer_0/up/bias")
    'layers/vision/tower/blocks/vision_block/up/vars/1'
    """
    owner, _, variable = path.rpartition("/")
    block = "vision_block" if path.startswith("vision/") else "block"
    owner = re.sub(r"/layer_(\d+)", rf"/blocks/{block}_\1", f"{owner}/").removesuffix("/")
    owner = owner.replace(f"{block}_0/", f"{block}/")
    owner = re.sub(r"/expert_(\d+)/", r"/experts/gated_mlp_\1/", owner)
    owner = owner.replace("/gated_mlp_0/", "/gated_mlp/")
    owner = re.sub("/output$", "/output_dense", owner)
    return f"layers/{owner}/vars/{int(variable in _SECOND_VARIABLES)}"


def _layers_with_a_matrix(config):
    parts = [row.path.rpartition("/")[::2] for row in names.rows(config)]
    return {owner for owner, name in parts if name in _MATRICES and owner != _NO_MATRIX}
