"""A run that was interrupted goes on with the losses of one that was not."""

import contextlib
import json
import shutil

import keras
import numpy as np
import pytest
from resumed_runs import MANY, Killed, Losses, new_task, run

from keras_t5gemma2 import TrainingCheckpoint
from keras_t5gemma2.training.checkpoint_states import newest


@pytest.fixture(
    scope="module", params=[False, pytest.param(True, marks=pytest.mark.once)], ids=["full", "lora"]
)
def uninterrupted(request):
    lm = new_task(request.param)
    return request.param, run(lm), [keras.ops.convert_to_numpy(w) for w in lm.weights]


@pytest.mark.once
def test_losses_and_weights_are_those_of_a_run_that_was_not_interrupted(tmp_path, uninterrupted):
    """Killed in the middle of an epoch and once more behind the end of one."""
    is_lora, want, want_weights = uninterrupted
    checkpoint = {"directory": tmp_path, "save_freq": 2, "delete_checkpoint": False}
    assert len(want) == 15
    first = run(new_task(is_lora), [TrainingCheckpoint(**checkpoint)], kill_after=8)
    assert newest(tmp_path).name == "epoch_000001_step_000000002"
    # The seeds of another process are others; the state of the run has its own.
    second = run(new_task(is_lora, seed=7), [TrainingCheckpoint(**checkpoint)], kill_after=4)
    assert newest(tmp_path).name == "epoch_000002_step_000000000"
    lm = new_task(is_lora, seed=8)
    third = run(lm, [TrainingCheckpoint(**checkpoint)])

    np.testing.assert_array_equal(first, want[:8])
    np.testing.assert_array_equal(second, want[7:11])
    np.testing.assert_array_equal(third, want[10:])
    for weight, value in zip(lm.weights, want_weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), value, weight.path)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.compiled
def test_a_run_goes_on_on_every_backend(tmp_path):
    """From what the directory held in the middle of an epoch, in a model of another seed."""

    class Copying(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                shutil.copytree(tmp_path / "run", tmp_path / "killed")

    saving = TrainingCheckpoint(tmp_path / "run", save_freq=2)
    want = run(new_task(False), [saving, Copying()], epochs=1)
    saving = TrainingCheckpoint(tmp_path / "killed", save_freq=2)
    got = run(new_task(False, seed=7), [saving], epochs=1)
    assert len(want) == 5
    np.testing.assert_allclose(got, want[2:], rtol=1e-5)


@pytest.mark.once
def test_frozen_weights_are_not_saved(tmp_path):
    from safetensors.numpy import load_file

    def saved(is_lora):
        directory = tmp_path / str(is_lora)
        lm = new_task(is_lora)
        run(lm, [TrainingCheckpoint(directory, delete_checkpoint=False)], epochs=1)
        tensors = load_file(newest(directory) / "model.safetensors")
        of_model = sum(v.size for key, v in tensors.items() if key.startswith("model/"))
        seeds = [v for v in lm.non_trainable_variables if v.name == "seed_generator_state"]
        assert len(seeds) > 0
        return of_model - sum(np.prod(v.shape) for v in seeds), lm

    size, lm = saved(is_lora=True)
    assert size == sum(np.prod(v.shape) for v in lm.trainable_variables)
    size, lm = saved(is_lora=False)
    assert size == lm.count_params()


@pytest.mark.once
def test_nothing_is_left_of_a_run_that_has_ended(tmp_path):
    (tmp_path / "notes").write_text("mine")
    run(new_task(False), [TrainingCheckpoint(tmp_path)], epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


@pytest.mark.once
def test_a_run_that_dies_while_it_saves_leaves_the_state_before(tmp_path, monkeypatch):
    from keras_t5gemma2.training import checkpoint

    run(new_task(False), [TrainingCheckpoint(tmp_path)], kill_after=7)
    written = []

    def fail(directory, *_):
        written.append(directory)
        raise Killed

    monkeypatch.setattr(checkpoint, "write_safetensors", fail)
    run(new_task(False), [TrainingCheckpoint(tmp_path, 1)])
    assert len(written) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["epoch_000001_step_000000000"]


@pytest.mark.once
def test_a_data_set_goes_on_behind_what_was_seen_of_it(tmp_path):
    batches = [{name: values[i : i + 3] for name, values in MANY.items()} for i in range(0, 9, 3)]

    class Data(keras.utils.PyDataset):
        num_batches = len(batches)

        def __getitem__(self, index):
            return batches[index]

    def fit(kill_after=None):
        losses, saver = Losses(kill_after), TrainingCheckpoint(tmp_path, 1)
        with contextlib.suppress(Killed):
            callbacks = [saver, losses]
            new_task(False).fit(Data(), epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
        return losses.values

    want = fit()
    assert len(want) == 6
    first = fit(kill_after=5)
    np.testing.assert_array_equal(first, want[:5])
    np.testing.assert_array_equal(fit(), want[5:])


@pytest.mark.once
def test_another_model_is_refused(tmp_path):
    run(new_task(False), [TrainingCheckpoint(tmp_path, 1)], kill_after=3)
    with pytest.raises(ValueError, match=r"epoch_000000_step_00000000\d, whose model/0 has"):
        run(new_task(True), [TrainingCheckpoint(tmp_path)])
    lm = new_task(False)
    lm.compile(optimizer="sgd")
    with pytest.raises(ValueError, match=r"whose optimizer/\d+ has the shape \(.*has None"):
        run(lm, [TrainingCheckpoint(tmp_path)])


@pytest.mark.once
def test_what_the_callback_refuses(tmp_path):
    with pytest.raises(ValueError, match="save_freq=0"):
        TrainingCheckpoint(tmp_path, 0)
    with pytest.raises(ValueError, match="steps_per_epoch=2"):
        run(new_task(False), [TrainingCheckpoint(tmp_path)], steps_per_epoch=2)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="a model of type <class 'keras.*Sequential'>"):
        model.fit(np.ones((2, 3)), np.ones((2, 2)), callbacks=[TrainingCheckpoint(tmp_path)])


@pytest.mark.once
def test_the_state_is_said(tmp_path):
    run(new_task(False), [TrainingCheckpoint(tmp_path, 2)], kill_after=3)
    state = json.loads((newest(tmp_path) / "state.json").read_text())
    assert (state["epoch"], state["step"]) == (0, 2)
    assert isinstance(state["seed"], int)
