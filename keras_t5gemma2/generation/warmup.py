"""Compiling before the first request comes."""

import itertools

import numpy as np
from keras import ops

from keras_t5gemma2.generation import batching, calls
from keras_t5gemma2.generation import inputs as inputs_of
from keras_t5gemma2.generation.samplers import check_temperature
from keras_t5gemma2.generation.settings import OPTIONS, settings_of
from keras_t5gemma2.generation.stepwise import ids_by_steps
from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import counted, integer
from keras_t5gemma2.sharding.batch import row_parts, to_devices

# Of the settings of `generate`, those that its program knows.
_SETTINGS = tuple(name for name in OPTIONS if name != "return_scores")


def warmup(generator, sizes, images, stop_token_ids, verbose, options):
    """See `T5Gemma2Seq2SeqLM.warmup`.

    Args:
        generator: `Generator`.
        sizes: dict of `lengths`, `new_tokens`, `batch_size` and `prompt_length`.
        options: dict of the settings of a call.
        Others are those of that method.
    """
    stop_token_ids = inputs_of.stop_token_ids(generator.model, stop_token_ids)
    check_temperature(generator.sampler)
    sizes = [_positive_integers(name, value) for name, value in sizes.items()]
    seen = _images_of_a_row(generator.model, images)
    # Their values are inputs: any make the program of all.
    given = {"seed": 0, **options}
    settings = settings_of(generator, given, stop_token_ids, "warmup", _SETTINGS)
    runs = [_with_settings(generator, settings, stop_token_ids, verbose)]
    if not options:
        runs.append(_without_settings(generator, stop_token_ids, verbose))
    random_state = [variable.numpy() for variable in generator.sampler.variables]
    done = set()
    for size in itertools.product(*sizes):
        arrays = _arrays(*size, seen)
        shape = tuple(arrays[name].shape for name in sorted(arrays))
        if shape not in done:
            done.add(shape)
            for run in runs:
                run(arrays)
    for variable, value in zip(generator.sampler.variables, random_state, strict=True):
        variable.assign(value)


def _without_settings(generator, stop_token_ids, verbose):
    call = calls.call_of(generator, verbose=verbose)
    step = generator.make_generate_function(call)

    def run(arrays):
        screen = generator.screening.inputs(generator, call, *arrays["new_token_ids"].shape)
        _wait(step({**to_devices(arrays), **screen}, stop_token_ids=stop_token_ids))

    return run


def _with_settings(generator, settings, stop_token_ids, verbose):
    call = calls.call_of(generator, verbose=verbose, settings=settings)
    step = generator.make_generate_function(call)

    def run(arrays):
        rows, room = arrays["new_token_ids"].shape
        asked = settings.arrays([0] * rows, 1, [room] * rows, room)
        inputs = to_devices({**arrays, "settings": asked})
        if settings.is_stepwise:
            ids_by_steps(generator, inputs, stop_token_ids, call, settings.constraint)
        else:
            inputs |= generator.screening.inputs(generator, call, rows, room, settings)
            _wait(step(inputs, stop_token_ids=stop_token_ids))

    return run


def _wait(ids):
    ops.convert_to_numpy(ids)


def _images_of_a_row(model, count):
    """Images by the name of their input, where the preprocessor gives any, be it none."""
    vision = model.backbone.config.vision
    count = counted("images", count, least=0)
    if count and vision is None:
        raise ValueError(
            "`images` needs a model with a vision tower, which this one has not. "
            f"Received: images={shown(count)}"
        )
    converter = model.preprocessor and model.preprocessor.image_converter
    if not count and (vision is None or converter is None):
        return {}
    return {"images": np.zeros((count, vision.image_size, vision.image_size, 3), "float32")}


def _arrays(length, new_tokens, batch_size, prompt_length, seen):
    """What a batch of such sizes becomes, with one token to generate."""
    # As `generate` has it where devices share the rows.
    batch_size += -batch_size % row_parts() if batch_size > 1 else 0
    ids, prompt = (np.ones((n,), "int32") for n in (length, prompt_length))
    seen = {name: np.stack([of_a_row] * batch_size) for name, of_a_row in seen.items()}
    rows = batching.Rows(
        [ids] * batch_size, [ids.astype(bool)] * batch_size, [prompt] * batch_size, seen
    )
    arrays = batching.pad_rows(rows, new_tokens)
    return {**arrays, "new_tokens": np.ones_like(arrays["new_tokens"])}


def _positive_integers(name, value):
    try:
        values = [value] if np.ndim(value) == 0 else [*value]
    except TypeError:
        values = [value]
    counts = [integer(one) for one in values]
    if not counts or None in counts or min(counts) < 1:
        kind = ValueError if np.ndim(value) or counts[0] is not None else TypeError
        raise kind(
            f"`{name}` must be a positive integer or a list of them. Received: "
            f"{name}={shown(value)}"
        )
    return counts
