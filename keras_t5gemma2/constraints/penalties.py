"""Repetitions made less likely or ruled out, by the rules of transformers' processors."""

from keras import ops


def repetition(logits, ids, is_there, penalty):
    """Logits (B, V) of tokens that stand in a row already: divided, or multiplied below 0.

    Args:
        ids: (B, L) int32.
        is_there: (B, L) bool, which of them are tokens of the row.
        penalty: (B, 1) float32; 1 changes nothing.
    """

    def penalized():
        changed = ops.where(logits < 0, logits * penalty, logits / penalty)
        return ops.where(_marked(ids, is_there, logits.shape[1]), changed, logits)

    return ops.cond(ops.any(penalty != 1), penalized, lambda: logits)


def repeated_ngrams(logits, ids, is_there, index, size):
    """Logits (B, V), -inf where a token would complete a run that stands in the row already.

    Args:
        ids, is_there: as of `repetition`.
        index: int32 scalar, the slot of the next token.
        size: (B, 1) int32, tokens of a run; 0 forbids nothing.
    """

    def forbidden():
        def compare(distance, same, shifted):
            # `shifted` has in each place the token that stands so far before it.
            shifted = ops.roll(shifted, 1, axis=1)
            here = ops.maximum(index - distance, 0)
            before = ops.take(ids, ops.reshape(here, (1,)), axis=1)
            is_known = ops.take(is_there, ops.reshape(here, (1,)), axis=1) & (index >= distance)
            equal = (shifted == before) & is_known & (places >= first + distance)
            return distance + 1, ops.where(distance < size, same & equal, same), shifted

        def goes_on(distance, same, shifted):
            return distance < ops.max(size)

        places = ops.arange(ids.shape[1], dtype="int32")
        first = ops.min(ops.where(is_there, places, ids.shape[1]), axis=1, keepdims=True)
        start = ops.convert_to_tensor(1, dtype="int32")
        state = start, is_there & (size > 0), ids
        same = ops.while_loop(goes_on, compare, state, maximum_iterations=ids.shape[1])[1]
        return ops.where(_marked(ids, same, logits.shape[1]), float("-inf"), logits)

    return ops.cond(ops.any(size > 0), forbidden, lambda: logits)


def _marked(ids, is_there, count):
    """(B, V) bool: which tokens are among those of each row."""
    rows, length = ids.shape
    # What is not there is marked in a column of its own.
    columns = ops.where(is_there, ids, count)
    numbers = ops.broadcast_to(ops.arange(rows, dtype="int32")[:, None], (rows, length))
    places = ops.stack([ops.reshape(numbers, (-1,)), ops.reshape(columns, (-1,))], axis=1)
    marks = ops.zeros((rows, count + 1), "float32")
    marks = ops.scatter_update(marks, places, ops.ones((rows * length,), "float32"))
    return marks[:, :count] > 0
