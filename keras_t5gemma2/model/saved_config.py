"""The config of a backbone that a file holds, which nobody has vouched for."""

from keras_t5gemma2.checkpoints.own.quantized_layers import quantized_layers
from keras_t5gemma2.checkpoints.own.reader import backbone_config
from keras_t5gemma2.config import BackboneConfig
from keras_t5gemma2.files.limits import check_size


def checked_fields(cls, fields):
    """Returns `config` and `quantized_layers` of a config, checked, where they are there.

    A subclass may have a constructor of its own.
    """
    if "config" not in fields:
        return {}
    origin = f"a {cls.__name__}"
    config = fields["config"]
    if not isinstance(config, BackboneConfig):
        config = backbone_config(origin, config)
        check_size(config, origin)
    checked = {"config": config}
    if "quantized_layers" in fields:
        described = fields["quantized_layers"]
        checked["quantized_layers"] = quantized_layers(origin, config, described)
    return checked
