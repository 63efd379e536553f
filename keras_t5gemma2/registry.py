"""The models that `from_preset` knows by name."""

import pathlib
from typing import Any

# Of T5Gemma 1, both tables counted, by the sizes of encoder and decoder.
_FIRST_PARAMETERS = {
    ("s", "s"): 312_517_632,
    ("b", "b"): 591_490_560,
    ("l", "l"): 1_241_761_792,
    ("ml", "ml"): 2_200_345_344,
    ("xl", "xl"): 3_766_980_608,
    ("2b", "2b"): 5_596_853_760,
    ("9b", "2b"): 12_292_375_296,
    ("9b", "9b"): 20_333_401_088,
}
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


def _published_first(encoder, decoder, objective, is_tuned):
    """A row of T5Gemma 1, whose stacks are of the sizes `encoder` and `decoder`."""
    ending = f"{objective}{'_it' if is_tuned else ''}"
    name = f"t5gemma_{encoder}_{decoder}_{ending}"
    trained = {
        "ul2": "adapted with the denoising tasks of UL2",
        "prefixlm": "adapted to continue prefixes, with distillation",
    }[objective]
    return (
        name,
        {
            "metadata": {
                "description": (
                    f"T5Gemma with an encoder of the size {encoder} and a decoder of the size "
                    f"{decoder}; {trained}{', and instruction-tuned' if is_tuned else ''}."
                ),
                "params": _FIRST_PARAMETERS[encoder, decoder],
                "path": "t5gemma",
                "encoder_context_length": 8192,
                "decoder_context_length": 8192,
                "license": _LICENSE,
            },
            "hf_handle": f"hf://google/t5gemma-{encoder}-{decoder}-{ending.replace('_', '-')}",
            "kaggle_handle": f"kaggle://keras/t5-gemma/keras/{name}/1",
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


# Context lengths in tokens, from the model cards; parameters with each table counted once.
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
        *(
            _published_first(*sizes, objective, is_tuned)
            for sizes in _FIRST_PARAMETERS
            for objective in ("ul2", "prefixlm")
            for is_tuned in (False, True)
        ),
    ]
)


def generation_of(row: dict[str, Any]) -> int:
    """1 or 2: which T5Gemma the row of a preset is of."""
    return 1 if row["metadata"]["path"] == "t5gemma" else 2


def class_name(name: str, generation: int) -> str:
    """The name of a class of T5Gemma 2, or of the one for T5Gemma 1 in its place.

    >>> class_name("T5Gemma2Seq2SeqLM", 2), class_name("T5Gemma2Seq2SeqLM", 1)
    ('T5Gemma2Seq2SeqLM', 'T5GemmaSeq2SeqLM')
    """
    return name if generation == 2 else name.replace("T5Gemma2", "T5Gemma", 1)
