"""Several processes of torch, each with a part of every batch, train what one process would."""

import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from repository import ROOT, environment

import keras_t5gemma2

GUIDE = ROOT / "guides" / "07_data_parallel_torch.py"
IS_TORCH = keras.config.backend() == "torch"
pytestmark = pytest.mark.once


def launched(script, directory, *arguments, processes=2):
    """What a script prints that torchrun starts in several processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    result = subprocess.run(
        [sys.executable, *launcher, str(script), *arguments],
        env=environment(KERAS_BACKEND="torch", OMP_NUM_THREADS="1"),
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.skipif(not IS_TORCH, reason="modules are torch's")
def test_a_task_is_a_module_with_parameters():
    lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    ours = {id(variable.value) for variable in lm.trainable_variables}
    assert {id(p) for p in lm.parameters() if p.requires_grad} == ours
    assert len(ours) > 80


@pytest.mark.parametrize(
    "is_full", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["lora", "full"]
)
@pytest.mark.slow
def test_the_guide_trains_what_fit_trains(tmp_path, is_full):
    """Losses and weights, with `DistributedDataParallel` around the task's own loss."""
    text = GUIDE.read_text().replace("9_600, 10)", "9_600, 1_200)")  # 8 rows, in batches of 5 and 3
    (tmp_path / GUIDE.name).write_text(text)
    options = ["--epochs", "1", "--batch-size", "5", *(["--full"] if is_full else [])]
    output = launched(GUIDE.name, tmp_path, *options)
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", output)]

    lm, batches = _of_the_guide(is_full)
    want = []
    for batch in batches:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(lm.preprocess_samples(batch))
        want.append(lm.train_on_batch(x, y, weights, return_dict=True)["loss"])
    assert len(want) == 2
    np.testing.assert_allclose(losses, want, rtol=1e-5)
    other, _ = _of_the_guide(is_full)
    if is_full:
        other.load_weights(tmp_path / "trained.weights.h5")
    else:
        other.load_adapter(tmp_path / "trained.safetensors")
    for ours, theirs in zip(lm.weights, other.weights, strict=True):
        ours, theirs = map(keras.ops.convert_to_numpy, (ours, theirs))
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5)


def _of_the_guide(is_full):
    """The task and the data of the guide, for one process."""
    import datetime

    keras.utils.set_random_seed(0)
    lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    lm.preprocessor.encoder_sequence_length = 32
    lm.preprocessor.decoder_sequence_length = 16
    if not is_full:
        lm.enable_lora(rank=8)
    lm.compile(optimizer=keras.optimizers.Adam(2e-3))
    days = [datetime.date(1980, 1, 1) + datetime.timedelta(int(n)) for n in range(0, 9_600, 1_200)]
    order = np.random.default_rng(0).permutation(8)
    batches = [
        {
            "encoder_text": [f"Write {days[i]} with dots." for i in part],
            "decoder_text": [f"{days[i]:%d.%m.%Y}" for i in part],
        }
        for part in (order[:5], order[5:])
    ]
    return lm, batches


_FIT = """
import sys
import keras, numpy as np, torch.distributed
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
from resumed_runs import MANY
from tasks import small_task
keras.utils.set_random_seed(0)
lm = small_task(seed=rank)  # `fit` gives all processes the weights of the first
keras.utils.set_random_seed(0)
history = lm.fit(MANY, batch_size=5, epochs=2, validation_data=MANY, verbose=0).history
loss = lm.evaluate(MANY, batch_size=4, verbose=0)[0]
weights = {str(i): keras.ops.convert_to_numpy(w) for i, w in enumerate(lm.weights)}
np.savez(f"{sys.argv[1]}/{rank}.npz", **history, evaluated=loss, **weights)
"""


@pytest.mark.slow
def test_fit_in_a_process_group(tmp_path):
    """9 rows in batches of 5 and 4: each process reads its part, and gradients are averaged."""
    from resumed_runs import MANY
    from tasks import small_task

    (tmp_path / "script.py").write_text(_FIT)
    launched("script.py", tmp_path, str(tmp_path))
    lm = small_task(seed=0)
    keras.utils.set_random_seed(0)
    want = lm.fit(MANY, batch_size=5, epochs=2, validation_data=MANY, verbose=0).history
    del want["tokens_per_second"]
    for rank in range(2):
        found = np.load(tmp_path / f"{rank}.npz")
        for name, values in want.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(found["evaluated"], want["val_loss"][-1], rtol=1e-5)
        for i, weight in enumerate(lm.weights):
            value = keras.ops.convert_to_numpy(weight)
            np.testing.assert_allclose(found[str(i)], value, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not IS_TORCH, reason="FSDP is torch's")
def test_fsdp_is_refused(tmp_path):
    """`fully_shard` exchanges the parameters, and Keras would train what nobody computes with."""
    import torch.distributed
    from tasks import SMALL_ROWS, small_task
    from torch.distributed.fsdp import fully_shard

    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        lm = small_task()
        batch = keras.utils.unpack_x_y_sample_weight(lm.preprocess_samples(SMALL_ROWS))
        fully_shard(lm)
        with pytest.raises(ValueError, match="Received: FSDPT5Gemma2Seq2SeqLM"):
            lm.fit(SMALL_ROWS, verbose=0)
        with pytest.raises(ValueError, match="Received: FSDPT5Gemma2Seq2SeqLM"):
            lm.token_sums(*batch)
    finally:
        torch.distributed.destroy_process_group()
