"""Beam search by the rule of transformers' `generate(num_beams=..., do_sample=False)`.

keras-hub's `BeamSampler` lets an ended beam run on past its end token and compares sums over
different lengths. Here, a beam that ends leaves the race for a pool of ended sequences.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import keras_hub
from keras import ops

from keras_t5gemma2.generation.beams import Beams
from keras_t5gemma2.generation.loop import DecodeState, Loop
from keras_t5gemma2.generation.samplers import check_temperature
from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import counted
from keras_t5gemma2.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_t5gemma2")
class BeamSearch(keras_hub.samplers.BeamSampler):
    """The best of several sequences, as transformers' beam search finds it.

    Every step ranks the candidates of all beams by the sum of their log probabilities. Of the best
    `num_beams` candidates, those that end go to the pool, with that sum divided by
    `length ** length_penalty`; the best `num_beams` others run on. A length counts the generated
    tokens with the end token and without the prompt. At the last slot everything ends.
    Where candidates tie exactly, the order is that of the backend's `top_k`: on JAX and TensorFlow
    the lower beam, then the lower token id; on PyTorch it is unspecified.

    A row may have more of its prompt at `index` and after it, where `mask` is True: these tokens
    stay, cost and count nothing. A row's result does not depend on the other rows.

    Args:
        num_beams: number of beams of each row, at least 1.
        length_penalty: exponent of the length. Above 0 favors long sequences, below 0 short ones.
        early_stopping: when a row with `num_beams` ended sequences is done. `True`: at once.
            `False`: when the best running beam, ending now, would not enter the pool. `"never"`:
            when it could not enter at any length.
        return_all_beams: also give the other sequences of the pool, and the scores.
        **kwargs: `temperature`, a divisor of the logits; at 0 `generate` is greedy.

    Call arguments:
        next: function of `(prompt, cache, index)` that reads slot `index - 1` and gives
            `(logits, hidden states or None, cache)`, logits (B * N, V) for slot `index`.
        prompt: (B, L) token ids. The slots to generate hold any filler.
        cache: tree of tensors with the batch on axis 0, or `None`.
        index: the first slot to generate, an integer scalar.
        mask: (B, L) bool, True where `prompt` holds a token to keep; what a row has of it from
            `index` on begins there and has no gap. `None`: all slots from `index` on are free.
        stop_token_ids: tuple of the ids that end a sequence, or `None`.
        hidden_states: not used.
        model: the model whose variables `next` reads; JAX's loop has to know it.

    Returns:
        (B, L) token ids with the filler kept after the end token. With `return_all_beams`,
        (B, N, L) token ids, best first, and their (B, N) float32 scores.

    Raises:
        ValueError: if an argument is out of its range, or V is too small for the stop tokens.

    Example: the likeliest first token (1) does not begin the likeliest sequence.

        >>> from keras import ops
        >>> p = np.array([[1, 0, 0, 0], [0.3, 0.3, 0.2, 0.2], [0.9, 0.1, 0, 0], [0.1, 0.5, 0.4, 0]])
        >>> def next(prompt, cache, index):
        ...     return ops.log(ops.take(p + 1e-9, prompt[:, index - 1], axis=0)), None, cache
        >>> prompt = ops.array([[3, -1, -1, -1]])
        >>> search = keras_t5gemma2.BeamSearch(num_beams=2)
        >>> best = search(next, prompt, index=1, stop_token_ids=(0,))
        >>> ops.convert_to_numpy(best).tolist()
        [[3, 2, 0, -1]]

    Example: a model that generates by it.

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.compile(sampler=keras_t5gemma2.BeamSearch(num_beams=3))
        >>> lm.generate("Write 2026-12-17 in French.", max_new_tokens=16)
        '17 décembre 2026'
    """

    def __init__(
        self,
        num_beams: int = 5,
        length_penalty: float = 1.0,
        early_stopping: bool | Literal["never"] = False,
        return_all_beams: bool = False,
        **kwargs: Any,
    ) -> None:
        num_beams = counted("num_beams", num_beams)
        if not isinstance(early_stopping, bool) and early_stopping != "never":
            raise ValueError(
                "`early_stopping` must be False, True or 'never'. Received: "
                f"early_stopping={shown(early_stopping)}"
            )
        super().__init__(num_beams=num_beams, return_all_beams=return_all_beams, **kwargs)
        check_temperature(self)
        self.length_penalty = length_penalty
        self.early_stopping = early_stopping

    def __call__(
        self,
        next: Callable[..., Any],
        prompt: Tensor,
        cache: Any = None,
        index: Tensor = 0,
        mask: Tensor | None = None,
        stop_token_ids: Sequence[int] | None = None,
        hidden_states: Tensor | None = None,
        model: keras.Model | None = None,
    ) -> Any:
        stops = tuple(stop_token_ids or ())
        return search(self, next, prompt, cache, index, mask, stops, model)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "length_penalty": self.length_penalty,
            "early_stopping": self.early_stopping,
        }


def search(sampler, next, prompt, cache, index, mask, stop_token_ids, model=None, steps=None):
    """What `BeamSearch` gives when it is called.

    Args:
        sampler: `BeamSearch`.
        steps: int32 scalar. The most slots to generate, or `None` for all from `index` on.
        Others are those of a call.
    """

    def step(state):
        logits, _, cache = next(state.ids, state.cache, state.index)
        return logits, None, state._replace(cache=cache)

    index, limit = (ops.cast(x, "int32") for x in (index, ops.shape(prompt)[1]))
    limit = limit if steps is None else ops.minimum(limit, index + steps)
    ended = ops.zeros_like(prompt[:, 0], dtype="bool")
    cache = () if cache is None else cache  # A loop variable cannot be `None`.
    strategy = Beams(sampler, mask)
    state = DecodeState(prompt, index, ended, cache, broken=())
    return strategy.result(strategy.run(state, Loop(step, limit, stop_token_ids, model)))
