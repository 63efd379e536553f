"""What `fit` takes with `rewards`, and what it refuses."""

import keras
import pytest
from tasks import small_task

from keras_t5gemma2 import OnPolicyDistillation, PolicyGradient, T5Gemma2TextClassifier

ROWS = ["the cat", "what is in the garden"]


def even(inputs, outputs):
    return [len(output) % 3 for output in outputs]


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"num_samples": 1}, ValueError, r"`num_samples` must be at least 2"),
        ({"num_samples": 2.5}, TypeError, r"`num_samples` must be an integer"),
        ({"policy": "grpo"}, TypeError, r"`policy` must be a PolicyGradient or `None`"),
        ({"y": ["a", "b"]}, ValueError, r"`y` does not go with `rewards`"),
        ({"validation_split": 0.5}, ValueError, r"`validation_split` does not go with `rewards`"),
        ({"validation_freq": 2}, TypeError, r"`fit` has no `validation_freq` where the model"),
        ({"epochs": -1}, ValueError, r"`epochs` must be an integer of at least 0"),
    ],
)
def test_arguments_are_checked(arguments, kind, message):
    with pytest.raises(kind, match=message):
        small_task().fit(ROWS, **{"rewards": [even], **arguments})


@pytest.mark.once
def test_what_goes_with_rewards_needs_them():
    rows = {"encoder_text": ROWS, "decoder_text": ["a", "a dog"]}
    with pytest.raises(ValueError, match=r"`num_samples` goes with `rewards`"):
        small_task().fit(rows, num_samples=4)
    with pytest.raises(ValueError, match=r"`policy` goes with `rewards`"):
        small_task().fit(rows, policy=PolicyGradient())


@pytest.mark.once
def test_a_task_without_a_preprocessor_is_refused():
    lm = small_task()
    lm = type(lm)(lm.backbone)
    lm.compile(optimizer=keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match=r"What a model writes is text: `fit` needs rows"):
        lm.fit(ROWS, rewards=[even])


@pytest.mark.once
def test_a_task_that_writes_nothing_is_refused():
    lm = small_task()
    classifier = T5Gemma2TextClassifier(lm.backbone, num_classes=2, preprocessor=lm.preprocessor)
    with pytest.raises(ValueError, match=r"are of texts that a model writes"):
        classifier.fit(ROWS, rewards=[even])


@pytest.mark.once
def test_a_loss_of_one_s_own_is_refused():
    lm = small_task()
    lm.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match=r"Learning from `rewards` brings its own loss"):
        lm.fit(ROWS, rewards=[even])
    with pytest.raises(ValueError, match=r"`distillation` brings its own loss"):
        lm.fit(ROWS, distillation=OnPolicyDistillation(small_task(seed=1)))


@pytest.mark.once
def test_columns_are_renamed_in_validation_too():
    lm, columns = small_task(), {"q": "encoder_text", "a": "decoder_text"}
    rows = {"q": ROWS, "a": ["a dog", "a bee"]}
    policy = PolicyGradient(kl_weight=0.0, max_new_tokens=4)
    options = {"rewards": [even], "num_samples": 2, "policy": policy, "columns": columns}
    history = lm.fit(rows, validation_data=rows, verbose=0, **options).history
    want = lm.evaluate(rows, columns=columns, verbose=0, return_dict=True)["loss"]
    assert history["val_loss"][0] == pytest.approx(want, rel=1e-4)
