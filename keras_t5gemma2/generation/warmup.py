"""Compiling before the first request comes."""

import itertools

import numpy as np
from keras import ops

from keras_t5gemma2.generation import batching, calls, decoding
from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import integer
from keras_t5gemma2.sharding.batch import row_parts, to_devices


class WarmsUp:
    """A task that can compile what `generate` will need; the base of one that has it."""

    def warmup(
        self,
        lengths,
        new_tokens=32,
        batch_size=1,
        prompt_length=1,
        images=0,
        stop_token_ids="auto",
        verbose="auto",
    ):
        """Compiles for inputs of these lengths, so that `generate` does not have to.

        A program serves all lengths that are rounded up to the same one, and so it does new
        tokens and prompts: one call for the longest of each kind is enough. The sampler is that
        of `compile`, whose random numbers go on as if nothing had been generated. Each program
        runs once, for one token.

        Args:
            lengths: int or list of ints. Tokens on the encoder's side.
            new_tokens: int or list of ints. As `generate` has it as `max_new_tokens`, or as what
                `max_length` leaves to a prompt.
            batch_size: int or list of ints. Rows.
            prompt_length: int or list of ints. Tokens of the decoder's prompt; the start token
                is one.
            images: int. Of the row that has most, crops included.
            stop_token_ids: as `generate` has it.
            verbose: 0, 1 or "auto". Whether to say on stderr what is compiled, unless 0.

        Raises:
            ValueError: a number is less than 1, or there are images and no vision tower.

        Example:

        >>> from keras_t5gemma2 import (
        ...     AttentionConfig, BackboneConfig, StackConfig, T5Gemma2Backbone, T5Gemma2Seq2SeqLM
        ... )
        >>> local = AttentionConfig(num_heads=4, num_kv_heads=1, head_dim=8, window=6)
        >>> stack = StackConfig(hidden_dim=32, mlp_dim=48, layers=(local,))
        >>> config = BackboneConfig(vocabulary_size=101, encoder=stack, decoder=stack)
        >>> lm = T5Gemma2Seq2SeqLM(T5Gemma2Backbone(config))
        >>> lm.warmup([50, 100], new_tokens=20, stop_token_ids=None)
        """
        stop_token_ids = self._stop_token_ids(stop_token_ids)
        decoding.check_temperature(self.sampler)
        sizes = {
            "lengths": lengths,
            "new_tokens": new_tokens,
            "batch_size": batch_size,
            "prompt_length": prompt_length,
        }
        sizes = [_positive_integers(name, value) for name, value in sizes.items()]
        seen = self._images_of_a_row(images)
        call = calls.call_of(self, verbose=verbose)
        random_state = [variable.numpy() for variable in self.sampler.variables]
        done = set()
        for size in itertools.product(*sizes):
            arrays = _arrays(*size, seen)
            shape = tuple(arrays[name].shape for name in sorted(arrays))
            if shape not in done:
                done.add(shape)
                step = self.make_generate_function(call)
                tensors = to_devices(arrays)
                ops.convert_to_numpy(step(tensors, stop_token_ids=stop_token_ids))
        for variable, value in zip(self.sampler.variables, random_state, strict=True):
            variable.assign(value)

    def _images_of_a_row(self, count):
        """Images by the name of their input, where the preprocessor gives any, be it none."""
        vision = self.backbone.config.vision
        if integer(count) is None or count < 0:
            kind = TypeError if integer(count) is None else ValueError
            raise kind(
                f"`images` must be an integer of at least 0. Received: images={shown(count)}"
            )
        if count and vision is None:
            raise ValueError(
                "`images` needs a model with a vision tower, which this one has not. "
                f"Received: images={shown(count)}"
            )
        converter = self.preprocessor and self.preprocessor.image_converter
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
