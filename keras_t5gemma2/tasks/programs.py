"""Compiled programs of a task beside that of `generate`."""

from keras import ops

from keras_t5gemma2 import cache as caches
from keras_t5gemma2 import kernels
from keras_t5gemma2.tasks import decoding


def program(task, key, make, compiled=kernels.compiled):
    """What `compiled` makes of the function that `make()` gives, made once a key and cache.

    It is made anew where that of `generate` is: by `compile`, by another adapter or by
    quantization both are stale.

    Args:
        task: `T5Gemma2Seq2SeqLM`.
        key: a hashable: all that `make` reads beside the task.
        make: function without arguments.
        compiled: function of that function and the task.
    """
    task.make_generate_function()  # which also makes the task ready to generate
    programs, key = task._generating, (key, task._cache_key)
    if key not in programs:
        programs[key] = compiled(make(), task)
    return programs[key]


def start(task, inputs, ahead=0):
    """What the encoder leaves, and the cache as loops carry it, of a batch of prompts.

    Args:
        task: `T5Gemma2Seq2SeqLM`.
        inputs: dict of the tensors that `generation.pad_rows` makes.
        ahead: as `decoding.prefill` has it.
    """

    kind, dtype = task.cross_attention_cache, task.cache_dtype

    def start(_, inputs):
        memory = decoding.remember(task.backbone, inputs, kind, dtype)
        cache, _ = decoding.prefill(task.backbone, inputs, memory, ahead=ahead, cache_dtype=dtype)
        return memory, caches.folded(cache)

    return program(task, ("start", ahead), lambda: start)((), inputs)


def next_token(task, memory, is_folded=True):
    """The function of a prompt, a cache and an index that a sampler asks for the next token.

    Args:
        task: `T5Gemma2Seq2SeqLM`.
        memory: what `decoding.remember` gave.
        is_folded: bool. Whether the sampler carries the cache from step to step folded.
    """

    def step(memory, prompt, cache, index):
        cache = caches.unfolded(cache) if is_folded else cache
        hidden, cache = decoding.step(task.backbone, memory, prompt, cache, index)
        return task.logits(hidden), hidden, caches.folded(cache) if is_folded else cache

    run = program(task, ("next", is_folded), lambda: step, kernels.compiled_step)
    return lambda prompt, cache, index: run(
        memory, prompt, cache, ops.convert_to_tensor(index, dtype="int32")
    )
