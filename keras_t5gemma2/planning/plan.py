"""What a model takes of each device's memory, computed from its sizes before anything is loaded."""

import dataclasses
import functools

from keras_t5gemma2.messages import shown
from keras_t5gemma2.planning.activations import of_cache, of_head, of_inference, of_training
from keras_t5gemma2.planning.weights import config_of, shares, weights_of


@dataclasses.dataclass(frozen=True)
class Plan:
    """Bytes of the fullest device.

    Args:
        weights: int. Of the model, adapters included.
        optimizer: int. What the optimizer keeps for each weight that it trains.
        gradients: int. Of the weights that are trained.
        cache: int. What `generate` keeps: the encoder's output as the decoder sees it, and the
            decoder's own keys and values.
        activations: int. The most that is held of intermediate values at one time.
        head: int. The copy of the embedding table that a screened head reads, on a CPU.
    """

    weights: int
    optimizer: int = 0
    gradients: int = 0
    cache: int = 0
    activations: int = 0
    head: int = 0

    @property
    def total(self):
        return sum(dataclasses.astuple(self))

    def fits(self, memory):
        """Whether all of it is at most `memory` bytes."""
        return self.total <= memory


def plan(model, work, text_only=False):
    """The `Plan` of a model for some `Work`.

    Weights, optimizer, gradients and cache are exact: variables are those of the model, which is
    built without values, shared out as `T5Gemma2Backbone.get_layout_map` says. Activations are an
    estimate, made from programs in float32 that XLA compiled for a CPU, which it meets within a
    quarter; of inputs of 512 tokens and fewer it is up to 40 % too high. What the runtime itself
    takes and what its allocator cannot use are not in it: leave it a tenth of the memory.

    Args:
        model: `BackboneConfig`, or anything that `from_preset` takes. No weights are read.
        work: `Work`.
        text_only: bool. Whether the vision tower is left out.

    Raises:
        ValueError: there are images and no vision tower to read them.

    Example: a model that has 15 GB of weights, on a card of 16 GiB.

    >>> from keras_t5gemma2.planning.plan import plan
    >>> from keras_t5gemma2.planning.work import Work
    >>> of_lora = plan("t5gemma2_4b_4b", Work("lora", batch_size=1), text_only=True)
    >>> of_lora.fits(16 * 2**30)
    True
    """
    config = config_of(model, text_only)
    if work.images and config.vision is None:
        raise ValueError(
            "Images need a model with a vision tower. Received: "
            f"images={shown(work.images)} and a model of text only"
        )
    # What is one number for all lengths and batches is counted once.
    same = dataclasses.replace(work, **_ANY, mesh=tuple(work.mesh))
    of_weights, *of_training_state = _of_weights(config, same)
    if work.mode == "inference":
        return Plan(
            of_weights,
            cache=of_cache(config, work),
            activations=of_inference(config, work),
            head=of_head(config, work),
        )
    return Plan(of_weights, *of_training_state, activations=of_training(config, work))


# Fields of `Work` that weights know nothing of.
_ANY = {"encoder_length": 1, "decoder_length": 1, "batch_size": 1, "images": 0}


@functools.lru_cache(maxsize=64)
def _of_weights(config, work):
    """Bytes of the weights, of what the optimizer keeps of them, and of their gradients."""
    weights, share = weights_of(config, work), shares(config, work)
    trained = [weight for weight in weights if weight.is_trainable]
    return (
        sum(share(w, w.num_bytes) for w in weights),
        sum(share(w, w.num_bytes_of_slots(work.optimizer)) for w in trained),
        sum(share(w, w.num_bytes) for w in trained),
    )


def largest_batch(model, work, memory, text_only=False):
    """The largest batch size with which `work` fits devices of `memory` bytes; 0 if none does."""
    config = config_of(model, text_only)

    def fits(batch_size):
        return plan(config, dataclasses.replace(work, batch_size=batch_size)).fits(memory)

    if not fits(1):
        return 0
    size = 1
    while fits(2 * size) and size < 2**20:
        size *= 2
    low, high = size, 2 * size  # the first fits, the second does not
    while high - low > max(1, low // 64):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
