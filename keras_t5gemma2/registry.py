"""The models that `from_preset` knows by name."""

import pathlib
from typing import Any

_LICENSE = "Gemma Terms of Use, https://ai.google.dev/gemma/terms"


def _published(size, parameters, encoder_and_decoder):
    name = f"t5gemma2_{size}_{size}"
    return (
        name,
        {
            "metadata": {
                "description": (
                    f"T5Gemma 2 with an encoder and a decoder of {encoder_and_decoder} parameters "
                    "each and a vision tower of 417M; pretrained, not instruction-tuned."
                ),
                "params": parameters,
                "path": "t5gemma2",
                "encoder_context_length": 131_072,
                "decoder_context_length": 32_768,
                "license": _LICENSE,
            },
            # The weights as published: `from_preset` reads these.
            "hf_handle": f"hf://google/t5gemma-2-{size}-{size}",
            # The same weights as keras-hub wrote them, for keras-hub's own classes.
            "kaggle_handle": f"kaggle://keras/t5gemma-2/keras/{name}/2",
        },
    )


def _embedded(name, description, parameters, context_lengths):
    return (
        name,
        {
            "metadata": {
                "description": description,
                "params": parameters,
                "path": "t5gemma2",
                "encoder_context_length": context_lengths[0],
                "decoder_context_length": context_lengths[1],
                "license": "Apache-2.0",
            },
            # Part of the package: it needs no network.
            "directory": str(pathlib.Path(__file__).parent / "embedded" / name),
        },
    )


# Context lengths in tokens, from the model card; parameters with the one embedding table counted
# once.
presets: dict[str, dict[str, Any]] = dict(
    [
        _embedded(
            "t5gemma2_tiny",
            "T5Gemma 2 in miniature, trained by tools/tiny/train.py: it spells numbers, writes "
            "dates and names in many languages, reads handwritten digits and fills in gaps.",
            2_050_976,
            (64, 48),
        ),
        _published("270m", 786_029_296, "270M"),
        _published("1b", 2_115_977_456, "1B"),
        _published("4b", 7_508_928_880, "4B"),
    ]
)
