"""A step on the student's own samples, against the update written out, on each backend."""

import numpy as np
import pytest
from keras import ops
from tasks import small_task
from variable_gradients import gradients_by_variables

from keras_t5gemma2 import OnPolicyDistillation
from keras_t5gemma2.training import distillation_lesson

ROWS = ["the cat", "what is in the garden"]
RATE = 0.5


def logits_of(lm, samples):
    """(tokens, V) log-probabilities of repeated rows, row by row."""
    count, found = len(samples.ids) // len(samples.rows.prompts), []
    for number, ids in enumerate(samples.ids):
        row = number // count
        own = np.concatenate([samples.rows.prompts[row], ids])[None, :-1].astype("int32")
        encoder = samples.rows.encoder_ids[row][None].astype("int32")
        x = {"encoder_token_ids": encoder, "decoder_token_ids": own}
        x |= {f"{side}_padding_mask": np.ones_like(x[f"{side}_token_ids"]) for side in SIDES}
        logits = lm({name: ops.convert_to_tensor(value) for name, value in x.items()})
        found.append(ops.log_softmax(ops.cast(logits[0, -len(ids) :], "float32"), axis=-1))
    return ops.concatenate(found, axis=0)


SIDES = ("encoder", "decoder")


@pytest.mark.slow
def test_a_step_is_the_written_out_update(monkeypatch):
    student, teacher = small_task(learning_rate=RATE), small_task(seed=3)
    before = [np.array(ops.convert_to_numpy(v)) for v in student.trainable_variables]
    recorded, draw = [], distillation_lesson.draw

    def recording(*args):
        recorded.append(draw(*args))
        return recorded[-1]

    monkeypatch.setattr(distillation_lesson, "draw", recording)
    lesson = OnPolicyDistillation(teacher, "reverse", max_new_tokens=5)
    options = {"distillation": lesson, "num_samples": 2, "shuffle": False, "verbose": 0}
    history = student.fit(ROWS, **options).history
    after = [np.array(ops.convert_to_numpy(v)) for v in student.trainable_variables]
    for variable, value in zip(student.trainable_variables, before, strict=True):
        variable.assign(value)
    q = ops.convert_to_tensor(np.array(ops.convert_to_numpy(logits_of(teacher, recorded[0]))))

    def written_out():
        p = logits_of(student, recorded[0])
        return ops.mean(ops.sum(ops.exp(p) * (p - q), axis=-1))

    slopes = gradients_by_variables(student.trainable_variables, written_out)
    for old, new, slope in zip(before, after, slopes, strict=True):
        np.testing.assert_allclose(new - old, -RATE * slope, atol=2e-5)
    assert max(np.abs(new - old).max() for old, new in zip(before, after, strict=True)) > 1e-3
    loss = float(ops.convert_to_numpy(written_out()))
    assert history["loss"][0] == pytest.approx(loss, rel=1e-3)
    more = student.fit(ROWS, epochs=6, **options).history["loss"]
    assert more[-1] < 0.9 * more[0]


@pytest.mark.once
def test_what_does_not_go_with_it_is_refused():
    student, lesson = small_task(), OnPolicyDistillation(small_task(seed=3))
    with pytest.raises(ValueError, match=r"`y` does not go with `OnPolicyDistillation`"):
        student.fit(ROWS, ["a", "a dog"], distillation=lesson)
    with pytest.raises(ValueError, match=r"`num_samples` must be an integer of at least 1"):
        student.fit(ROWS, distillation=lesson, num_samples=0)
    with pytest.raises(ValueError, match=r"`distillation` does not go with `rewards`"):
        student.fit(ROWS, distillation=lesson, rewards=[lambda inputs, outputs: [0.0] * 16])
