"""Unknown keyword arguments: refused, with the nearest that there is."""

import difflib
import inspect
import re

import numpy as np

from keras_t5gemma2.messages import listed, shown

# How many unknown names a message lists.
_NAMES = 4
# Every layer of Keras takes these.
_OF_LAYERS = ("name", "trainable", "dtype")
# Names of other libraries, each with its argument here or a sentence that says what to do.
_ELSEWHERE = {
    "torch_dtype": "dtype",
    "load_in_8bit": 'quantize="int8"',
    "load_in_4bit": 'quantize="int4"',
    "quantization_config": "quantize",
    "quantization": "quantize",
    "device_map": (
        "Leave it out: weights go to the backend's device, and "
        "`keras_t5gemma2.distribution.distribute` spreads them over several"
    ),
    "revision": (
        "Download it by `huggingface_hub.snapshot_download(repository, revision=...)`, and give "
        "the directory that this returns"
    ),
    "subfolder": (
        "Download the repository by `huggingface_hub.snapshot_download(repository)`, and give the "
        "path of the folder"
    ),
    "trust_remote_code": "Leave it out: no code of a preset is ever run",
    "token": "Log in by `hf auth login`, or set the environment variable HF_TOKEN",
    "cache_dir": "Set the environment variable HF_HUB_CACHE to the directory",
    "local_files_only": "Set the environment variable HF_HUB_OFFLINE=1",
    "force_download": "Remove the repository from the cache by `hf cache`",
    "low_cpu_mem_usage": "Leave it out: weights are always read one by one",
    "use_safetensors": "Leave it out: only safetensors are read of Hugging Face's formats",
    "attn_implementation": "Leave it out: the fastest kernel that fits is chosen",
    "use_cache": "Leave it out: `generate` always has a cache",
    "max_position_embeddings": "encoder_sequence_length",
    "model_max_length": "encoder_sequence_length",
    "max_length": "Give it to `generate`",
    "max_new_tokens": "Give it to `generate`",
}
# Names that others have for what a call of `generate` says.
_ELSEWHERE |= {
    "do_sample": (
        "Leave it out: `temperature`, `top_k`, `top_p` or `min_p` make a call draw, and "
        "`temperature=0` takes the likeliest token"
    ),
    "stop_strings": "stop",
    "stop_sequences": "stop",
    "stopping_criteria": "stop",
    "eos_token_id": "stop_token_ids",
    "bad_words_ids": "Give the strings as `bad_words`",
    "force_words_ids": "logits_processor",
    "suppress_tokens": "logits_processor",
    "min_length": "Give a `logits_processor` that hides the end token",
    "min_new_tokens": "Give a `logits_processor` that hides the end token",
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "n": "num_return_sequences",
    "early_stopping": "Compile with `sampler=keras_t5gemma2.BeamSearch(early_stopping=...)`",
    "penalty_alpha": "Compile with `keras_hub.samplers.ContrastiveSampler(k=..., alpha=...)`",
    "assistant_model": "assistant",
    "prompt_lookup_num_tokens": 'assistant="prompt_lookup"',
    "output_scores": "return_scores",
    "output_logits": "return_scores",
    "logprobs": "return_scores",
    "return_dict_in_generate": "return_scores",
    "streamer": "Call `stream`, which gives the text in pieces",
    "generation_config": "Give its values by their names",
    "generator": "seed",
    "random_state": "seed",
    "skip_special_tokens": "Leave it out: a text never has them",
}
_ELSEWHERE |= {"use_auth_token": _ELSEWHERE["token"], "proxies": "Set HTTPS_PROXY"}


def check_known(function, given, known):
    """Raises where a keyword argument is unknown.

    Args:
        function: string, what the message calls the function, `T5Gemma2Tokenizer` say.
        given: iterable of strings, the names that came.
        known: iterable of strings, the names that there are.

    Raises:
        TypeError: one of `given` is not known; the message says which is meant, or what to do.

    Example:

    >>> check_known("load", ["quantise"], ["dtype", "quantize"])
    Traceback (most recent call last):
    TypeError: `load` has no argument `quantise`. Did you mean `quantize`? It takes dtype, quantize
    """
    known = list(dict.fromkeys(known))
    if unknown := [name for name in given if name not in known]:
        remedy = " ".join(filter(None, [_remedy(name, known) for name in unknown[:_NAMES]]))
        names = listed([f"`{shown(str(name))[1:-1]}`" for name in unknown], _NAMES)
        noun = "argument" if len(unknown) == 1 else "arguments"
        takes = f"It takes {', '.join(known)}"
        raise TypeError(f"`{function}` has no {noun} {names}. {remedy}{' ' * bool(remedy)}{takes}")


def check_loading(cls, function, given, by_preset=(), more=()):
    """Raises where `from_preset` or the like of a class gets a keyword argument that it has not.

    Args:
        cls: the class. A preset may hold one that is derived from it, whose arguments count too.
        function: the name of the class method. Its own arguments and those of the constructor are
            known.
        given: dict of the keyword arguments that the method does not name.
        by_preset: names of arguments of the constructor that the preset itself gives.
        more: names of further arguments that a base class takes.
    """
    known = [*inspect.signature(getattr(cls, function)).parameters, *more]
    for one in (cls, *_derived(cls)):
        known += arguments_of(one)
    known = [name for name in known if name not in ("kwargs", *by_preset)]
    check_known(f"{cls.__name__}.{function}", given, known)


def check_constructor(layer, given, *more):
    """Raises where the constructor of a layer gets a keyword argument that no layer has.

    Args:
        layer: the layer.
        given: dict of the keyword arguments that the constructor does not name.
        more: names of further arguments that a base class takes.
    """
    if unknown := [name for name in given if name not in (*_OF_LAYERS, *more)]:
        cls = type(layer)
        loading = getattr(cls, "from_preset", None)
        if loading is not None and unknown[0] in inspect.signature(loading).parameters:
            raise TypeError(
                f"`{cls.__name__}` has no argument `{unknown[0]}`, which is one of "
                f"`{cls.__name__}.from_preset`. keras-hub's own `from_preset` does not know it"
            )
        check_known(cls.__name__, unknown, arguments_of(cls))


def check_file_name(**given):
    """Raises where a file that a preset is written to might lie outside of its directory.

    Args:
        **given: one argument by its name.
    """
    for name, value in given.items():
        if not isinstance(value, str) or not re.fullmatch(r"\w[\w.-]*\.json", value):
            raise ValueError(
                f"`{name}` must be the plain name of a JSON file, such as 'tokenizer.json'. "
                f"Received: {name}={shown(value)}"
            )


def check_flags(**given):
    """Raises where a flag is neither true nor false.

    Args:
        **given: values by the name of the argument.
    """
    for name, value in given.items():
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"`{name}` must be True or False. Received: {name}={shown(value)}")


def arguments_of(cls):
    """The names of the arguments of a constructor, with those that it hands on to its bases."""
    names = []
    for base in cls.__mro__:
        if _is_of_keras(base):
            return [*names, *(name for name in _OF_LAYERS if name not in names)]
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()
            kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
            names += [p.name for p in parameters if p.kind not in kinds and p.name != "self"]
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return names


def _is_of_keras(cls):
    return cls.__module__.partition(".")[0] in ("keras", "keras_hub")


def _derived(cls):
    for one in cls.__subclasses__():
        yield one
        yield from _derived(one)


def _remedy(name, known):
    """A sentence about the argument that is meant, or what to do; nothing where none is near."""
    meant = _ELSEWHERE.get(name, "")
    if " " in meant:
        return f"{meant}."
    if meant and meant.partition("=")[0] in known:
        return f"Did you mean `{meant}`?"
    near = difflib.get_close_matches(name.replace("_", ""), known, 1, 0.7)
    near = near or difflib.get_close_matches(name, known, 1, 0.6)
    return f"Did you mean `{near[0]}`?" if near else ""
