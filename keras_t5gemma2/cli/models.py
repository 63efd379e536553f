"""The model that a command works with, and how it chooses tokens."""

import keras
import keras_hub

from keras_t5gemma2.checkpoints.formats import class_for
from keras_t5gemma2.tasks.seq2seq_lm import T5Gemma2Seq2SeqLM
from keras_t5gemma2.tasks.text_embedder import T5Gemma2TextEmbedder


def load(
    preset,
    adapter=None,
    dtype=None,
    quantize=None,
    text_only=False,
    encoder_length=None,
    decoder_length=None,
):
    """The task of a preset, with an adapter of a file.

    Args:
        preset: string, as `T5Gemma2Seq2SeqLM.from_preset` has it; so have the others.
        adapter: path of a file of `save_adapter`, or of a directory of peft, or `None`.
        dtype: string or `None`.
        quantize: string or `None`.
        text_only: bool.
        encoder_length: int, `encoder_sequence_length`, or `None`.
        decoder_length: int, `decoder_sequence_length`, or `None`.
    """
    options = _given(dtype, quantize, encoder_length, decoder_length)
    lm = class_for(T5Gemma2Seq2SeqLM, preset).from_preset(preset, text_only=text_only, **options)
    if adapter is not None:
        lm.load_adapter(adapter)
    return lm


def load_embedder(
    preset, dtype=None, quantize=None, text_only=False, encoder_length=None, decoder_length=None
):
    """The `T5Gemma2TextEmbedder` of a preset, without its decoder; the arguments are of `load`."""
    options = _given(dtype, quantize, encoder_length, decoder_length)
    return class_for(T5Gemma2TextEmbedder, preset).from_preset(
        preset, text_only=text_only, **options
    )


def _given(dtype, quantize, encoder_length, decoder_length):
    options = {"dtype": dtype, "quantize": quantize}
    options |= {"encoder_sequence_length": encoder_length}
    options |= {"decoder_sequence_length": decoder_length}
    return {name: value for name, value in options.items() if value is not None}


def sampler_of(name=None, temperature=None, top_k=None, top_p=None, beams=None, seed=None):
    """The sampler that options mean.

    Args:
        name: string, or `None` for the one that the other options mean: greedy where there are
            none.
        temperature: float or `None`, of random choice.
        top_k: int or `None`.
        top_p: float or `None`, which `top_k` may go with.
        beams: int or `None`.
        seed: int or `None`.

    Returns:
        A name, or a `keras_hub.samplers.Sampler`.

    Raises:
        ValueError: an option has no meaning for the sampler; the message names it.

    Example:

    >>> sampler_of(), sampler_of(top_p=0.8, seed=1).p
    ('greedy', 0.8)
    """
    if name is None:
        name = _meant(temperature, top_k, top_p, beams)
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "beams": beams}
    given = {option: value for option, value in given.items() if value is not None}
    if wrong := [option for option in given if option not in _TAKES[name]]:
        option = wrong[0].replace("_", "-")
        samplers = [sampler for sampler, takes in _TAKES.items() if wrong[0] in takes]
        raise ValueError(
            f"`--{option}` must go with --sampler {' or '.join(samplers)}. Received: "
            f"--{option} {given[wrong[0]]} with --sampler {name}"
        )
    if seed is not None:
        keras.utils.set_random_seed(seed)
    arguments = {_NAMES[option]: value for option, value in given.items()}
    if name not in _DRAWS:
        return _CLASSES[name](**arguments) if arguments else name
    return _CLASSES[name](**arguments, seed=seed)


def _meant(temperature, top_k, top_p, beams):
    for name, value in (("beam", beams), ("top_p", top_p), ("top_k", top_k)):
        if value is not None:
            return name
    return "greedy" if temperature is None else "random"


_CLASSES = {
    "top_k": keras_hub.samplers.TopKSampler,
    "top_p": keras_hub.samplers.TopPSampler,
    "random": keras_hub.samplers.RandomSampler,
    "beam": keras_hub.samplers.BeamSampler,
    "contrastive": keras_hub.samplers.ContrastiveSampler,
}
_DRAWS = ("top_k", "top_p", "random")
_TAKES = {
    "greedy": (),
    "top_k": ("temperature", "top_k"),
    "top_p": ("temperature", "top_k", "top_p"),
    "random": ("temperature",),
    "beam": ("beams",),
    "contrastive": ("top_k",),
}
_NAMES = {"temperature": "temperature", "top_k": "k", "top_p": "p", "beams": "num_beams"}
