"""New tokens of all rows, as what `generate` returns; and what is said of those that go on."""

import numpy as np

from keras_t5gemma2.generation import batching
from keras_t5gemma2.preprocessing.cuts import Cut, report


def finished(model, rows, strip_prompt, is_single):
    """What `generate` returns, of `(prompt, budget, list of new tokens)` for each row."""
    length = max(len(prompt) + budget for prompt, budget, _ in rows)
    ids = [
        new if strip_prompt else np.concatenate([prompt, new])
        for prompt, _, drawn in rows
        for new in drawn
    ]
    outputs = batching.pad_outputs(ids, length)
    if model.preprocessor is None:
        is_alone = is_single and len(ids) == 1
        return {name: array[0] for name, array in outputs.items()} if is_alone else outputs
    text = model.preprocessor.generate_postprocess(outputs)
    return text[0] if is_single and len(text) == 1 else text


def report_unfinished(model, rows, limits, stop_token_ids):
    """Reports rows that end because nobody said how long they may be."""
    if limits != (None, None) or model.preprocessor is None:
        return
    cap = model.preprocessor.decoder_sequence_length
    report(
        [
            Cut("default" if budget == batching.NEW_TOKENS else "room", number, budget, cap)
            for number, (_, budget, drawn) in enumerate(rows)
            for new in drawn
            if len(new) == budget and new[-1] not in (stop_token_ids or ())
        ]
    )
