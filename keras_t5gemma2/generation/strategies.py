"""keras-hub's samplers as strategies of our loop."""

import keras_hub
from keras import ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.generation.beam_search import BeamSearch
from keras_t5gemma2.generation.beams import Beams
from keras_t5gemma2.generation.contrastive import Contrastive
from keras_t5gemma2.generation.drawing import Drawing, PerCall
from keras_t5gemma2.generation.loop import Strategy
from keras_t5gemma2.generation.samplers import check_temperature, goes_token_by_token, is_greedy


def strategy_of(sampler, settings=None, best=1):
    """The `Strategy` that chooses tokens as a `keras_hub.samplers.Sampler` does.

    Args:
        sampler: `keras_hub.samplers.Sampler`, or `PerCall`.
        settings: dict of tensors that `settings.Settings.arrays` makes, or `None`.
        best: int. Sequences of a row that a beam search gives.
    """
    if isinstance(sampler, PerCall):
        return Drawing(settings)
    check_temperature(sampler)
    is_certain = getattr(sampler, "temperature", 1.0) == 0
    if is_greedy(sampler) or (is_certain and not goes_token_by_token(sampler)):
        return Greedy()
    if goes_token_by_token(sampler):
        return TokenByToken(sampler, is_certain)
    call = type(sampler).__call__
    if call is BeamSearch.__call__:
        # How its rule depends on the exponent is decided when the program is made.
        is_fixed = settings is None or sampler.early_stopping == "never"
        return Beams(sampler, None, None if is_fixed else settings["length_penalty"], best)
    if call is keras_hub.samplers.ContrastiveSampler.__call__:
        return Contrastive(sampler)
    return OwnLoop(sampler)


class Greedy(Strategy):
    """The likeliest token is that of the highest logit: no softmax over the vocabulary."""

    def pick(self, logits, state, loop):
        return kernels.argmax(logits), state


class TokenByToken(Strategy):
    """A sampler that draws one token after another from the probabilities.

    Args:
        sampler: `keras_hub.samplers.Sampler`.
        is_certain: bool. Whether all the probability is the likeliest token's, as at temperature 0.
    """

    def __init__(self, sampler, is_certain):
        self._sampler, self._is_certain = sampler, is_certain
        self.variables = sampler.variables

    def pick(self, logits, state, loop):
        if self._is_certain:
            likeliest = kernels.argmax(logits)
            probabilities = ops.one_hot(likeliest, logits.shape[-1], dtype="float32")
        else:
            probabilities = self._sampler.compute_probabilities(logits)
        # Torch draws from numbers only. That the logits are none is noted beside: see `finite`.
        probabilities = ops.where(ops.isnan(probabilities), 1, probabilities)
        return self._sampler.get_next_token(probabilities), state


class OwnLoop(Strategy):
    """A sampler with a loop of its own, which goes through all the room that there is.

    What is generated past the limit is left out. Nothing is known of logits that are not finite.
    """

    is_folded = False

    def __init__(self, sampler):
        self._sampler = sampler

    def run(self, state, loop, hidden=None):
        def next(prompt, cache, index):
            cache, broken = cache
            here = state._replace(ids=prompt, index=index, cache=cache, broken=broken)
            logits, hidden, after = loop.step(here)
            logits = logits if loop.rules is None else loop.rules.logits(logits, here)
            return logits, hidden, (after.cache, after.broken)

        slots = ops.arange(state.ids.shape[1], dtype="int32")
        is_kept = (slots < state.index) | (slots >= loop.limit)
        ids = self._sampler(
            next=next,
            prompt=state.ids,
            cache=(state.cache, state.broken),
            index=state.index,
            mask=ops.broadcast_to(is_kept, state.ids.shape),
            stop_token_ids=loop.stop_token_ids or None,
            hidden_states=None,
            model=loop.model,
        )
        return state._replace(ids=ids)
