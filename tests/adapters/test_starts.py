"""`enable_lora(init=)`: outputs at the start, ranks by data, and the first loss of QLoRA."""

import data
import keras
import numpy as np
import pytest
from keras import ops
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2 import T5Gemma2Seq2SeqLM
from keras_t5gemma2.lora.config import INITS
from keras_t5gemma2.lora.starts import float_kernel

TARGET = ["query", "value", "down"]


def options(init):
    return {"init": init, "data": SMALL_ROWS if init == "eva" else None}


@pytest.mark.once
def test_outputs_at_the_start_are_those_of_the_base_model():
    """And training changes them, and the file of the adapter gives them again."""
    lm = small_task(learning_rate=0.1)
    x, *_ = lm.preprocess_samples(SMALL_ROWS)
    base = np.array(ops.convert_to_numpy(lm.predict_on_batch(x)))
    for init in INITS:
        lm.enable_lora(rank=2, target=TARGET, name=init, **options(init))
        found = np.array(ops.convert_to_numpy(lm.predict_on_batch(x)))
        np.testing.assert_allclose(found, base, atol=1e-5, err_msg=init)
        if init in ("pissa", "orthogonal"):  # A and B both have a gradient in the first step
            before = {v.path: np.array(ops.convert_to_numpy(v)) for v in lm.trainable_variables}
            lm.fit(SMALL_ROWS, batch_size=2, verbose=0)
            for variable in lm.trainable_variables:
                assert np.any(before[variable.path] != ops.convert_to_numpy(variable)), init


@pytest.mark.once
@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_trained_start_is_kept_by_files(init, tmp_path):
    lm = small_task(learning_rate=0.1)
    lm.enable_lora(rank=2, target=TARGET, init=init)
    lm.fit(SMALL_ROWS, batch_size=2, epochs=3, verbose=0)
    want = lm.score(SMALL_ROWS)
    lm.save_adapter(tmp_path / "a.safetensors")
    lm.save_peft_adapter(tmp_path / "peft")
    lm.save(tmp_path / "whole.keras")
    other = small_task()
    for path in ("a.safetensors", "peft"):
        other.load_adapter(tmp_path / path, name=path[:1])
        np.testing.assert_allclose(other.score(SMALL_ROWS), want, rtol=1e-5)
    whole = keras.saving.load_model(tmp_path / "whole.keras")
    np.testing.assert_allclose(whole.score(SMALL_ROWS), want, rtol=1e-5)
    assert whole.adapters["default"]["init"] == init


@pytest.mark.once
def test_eva_gives_ranks_by_data_and_keeps_their_sum_and_the_scales():
    lm = small_task()
    lm.enable_lora(rank=2, alpha=6, target=TARGET, init="eva", data=SMALL_ROWS)
    own = lm.adapter_set.trained_adapters()
    ranks = {path: adapter.a.shape[1] for path, adapter in own.items()}
    assert sum(ranks.values()) == 2 * 6
    assert max(ranks.values()) <= 4
    assert {round(adapter.scale, 6) for adapter in own.values()} == {3.0}
    for adapter in own.values():  # directions of length 1
        a = ops.convert_to_numpy(adapter.a)
        np.testing.assert_allclose(a.T @ a, np.eye(a.shape[1]), atol=1e-4)


@pytest.mark.once
@pytest.mark.parametrize(
    ("mode", "filters", "rank"), [("int8", "^(encoder|decoder)/", 32), ("int4", None, 16)]
)
def test_first_loss_of_qlora_is_nearer_the_float_models_with_loftq(mode, filters, rank):
    """Over rows of tasks of the preset, of values held out.

    At 4 bits with the table, whose rounding no adapter sees: at 8 bits that is most of it.

    The adapter is the same whether the model is quantized before or after, and no kernel with it
    is farther from the one of floats than without.
    """
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    found = data.held_out_examples(40)
    tasks = ("number spelling", "date formatting", "gaps")
    rows = data.rows_of([example for task in tasks for example in found[task]])
    x, labels, weights = lm.preprocess_samples(
        {key: rows[key] for key in ("encoder_text", "decoder_text")}
    )
    kernels = {path: float_kernel(layer) for path, layer in lm.adapter_set.layers().items()}

    def logs():
        found = ops.log_softmax(ops.cast(lm.predict_on_batch(x), "float32"))
        return np.array(ops.convert_to_numpy(found))

    def off():
        """How far the loss is from that of floats, and the divergence of each token."""
        difference = floats - logs()
        of_labels = np.take_along_axis(difference, np.maximum(labels, 0)[..., None], axis=-1)
        divergence = np.sum(np.exp(floats) * difference, axis=-1)
        return [abs(np.average(y, weights=weights)) for y in (of_labels[..., 0], divergence)]

    floats = logs()
    lm.enable_lora(rank=rank, init="loftq")
    lm.quantize(mode, filters=filters)
    own = lm.adapter_set.trained_adapters()
    for path, layer in lm.adapter_set.layers().items():
        a, b = (np.array(ops.convert_to_numpy(part)) for part in own[path].factors("float32"))
        residual = kernels[path] - float_kernel(layer)
        assert np.linalg.norm(residual - a @ b) < 0.97 * np.linalg.norm(residual), path
    loss, divergence = off()
    first = np.array(ops.convert_to_numpy(lm.trainable_variables[0]))
    lm.set_adapter(None)
    plain_loss, plain_divergence = off()
    assert loss < plain_loss and divergence < plain_divergence
    lm.enable_lora(rank=rank, init="loftq", name="later")
    np.testing.assert_allclose(
        np.abs(ops.convert_to_numpy(lm.trainable_variables[0])), np.abs(first), atol=1e-4
    )


@pytest.mark.once
def test_what_does_not_go_together_is_refused():
    lm = small_task()
    for given, message in (
        ({"init": "eva"}, '`data`.* must be given with `init="eva"`'),
        ({"data": SMALL_ROWS}, '`data`.* must be given with `init="eva"`'),
        ({"init": "pissa", "base": "t5gemma2_tiny"}, "`base` must be given with"),
        ({"init": "lora"}, "`init` must be one of pissa"),
        ({"init": "orthogonal", "rank": 3}, "even ranks"),
    ):
        with pytest.raises(ValueError, match=message):
            lm.enable_lora(**{"rank": 2, **given})
        assert lm.adapters == {}
    lm.quantize("int8", filters="^(encoder|decoder)")
    with pytest.raises(ValueError, match="not known where these are.*base=None"):
        lm.enable_lora(rank=2, init="loftq")
    with pytest.raises(ValueError, match="`base` must be the same model in floats"):
        lm.enable_lora(rank=2, init="loftq", base="t5gemma2_tiny")
