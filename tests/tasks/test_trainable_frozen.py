"""Parts that are frozen and trained again between two fits."""

import keras
import pytest
import tasks
from tiny_models import CONFIG

from keras_t5gemma2 import T5Gemma2Backbone


def fit(lm):
    return lm.fit(tasks.SMALL_ROWS, batch_size=2, verbose=0).history["loss"][0]


def weights_of(lm):
    return {v.path: keras.ops.convert_to_numpy(v) for v in lm.weights}


@pytest.mark.once
def test_parts_are_frozen_and_trained_again_between_fits():
    lm = tasks.small_task(learning_rate=0.05)
    fit(lm)
    lm.backbone.encoder.trainable = False
    with pytest.raises(ValueError, match="one for .* variables, also 'encoder/.*new optimizer"):
        fit(lm)
    with pytest.raises(ValueError, match="The optimizer must have been made for"):
        lm.train_on_batch(tasks.SMALL_ROWS)
    lm.backbone.encoder.trainable = True  # set back
    assert fit(lm) > 0


@pytest.mark.once
def test_a_new_optimizer_trains_what_is_left():
    lm = tasks.small_task()
    lm.backbone.encoder.trainable = False
    lm.compile(optimizer=keras.optimizers.SGD(0.05))
    before = weights_of(lm)
    fit(lm)
    changed = {path for path, value in weights_of(lm).items() if (value != before[path]).any()}
    assert changed and not any(path.startswith("encoder/") for path in changed)
    lm.backbone.encoder.trainable = True
    with pytest.raises(ValueError, match="one for .* variables, not 'encoder/"):
        fit(lm)


@pytest.mark.once
def test_an_optimizer_of_another_model_is_refused():
    lm, other = tasks.small_task(), tasks.small_task()
    fit(other)
    lm.compile(optimizer=other.optimizer)
    with pytest.raises(ValueError, match="It belongs to another model"):
        fit(lm)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    optimizer.build(other.trainable_variables)
    lm.compile(optimizer=optimizer)
    with pytest.raises(ValueError, match="It belongs to another model"):
        fit(lm)
    lm.backbone.trainable = False
    with pytest.raises(ValueError, match="There must be something to train"):
        fit(lm)


@pytest.mark.once
def test_the_frozen_tower_stays_so_unless_it_is_set_itself():
    backbone = T5Gemma2Backbone(CONFIG)
    vision = backbone.vision
    trained = [v.path for v in backbone.trainable_variables]
    assert not any("tower" in path for path in trained)
    for part in (backbone, vision):
        part.trainable = False
        assert not part.trainable_variables
        part.trainable = True
        assert [v.path for v in backbone.trainable_variables] == trained
    vision.tower.trainable = True
    everything = [v.path for v in backbone.trainable_variables]
    assert len(everything) > len(trained)
    backbone.trainable = False
    assert not vision.tower.trainable_variables
    backbone.trainable = True
    assert [v.path for v in backbone.trainable_variables] == everything
    vision.tower.trainable = False
    assert [v.path for v in backbone.trainable_variables] == trained
