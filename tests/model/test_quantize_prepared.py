"""`prepare_qat` of a task, training with a teacher, and `quantize()` in the end."""

import keras
import numpy as np
import pytest
from keras import ops
from tasks import SMALL_ROWS, small_task

from keras_t5gemma2 import Distillation, T5Gemma2Seq2SeqLM

ROWS = {
    "encoder_text": [f"Spell {n} in {to}." for n in (7, 12, 42) for to in ("German", "Dutch")],
    "decoder_text": ["sieben", "zeven", "zwölf", "twaalf", "zweiundvierzig", "tweeënveertig"],
}


def logits(lm, x):
    return np.array(ops.convert_to_numpy(lm.predict_on_batch(x)))


def matrices(lm):
    layers = lm.adapter_set.layers() | {"table": lm.backbone.token_embedding}
    return {path: np.array(ops.convert_to_numpy(x.float_matrix())) for path, x in layers.items()}


@pytest.mark.once
@pytest.mark.parametrize("mode", ["int4", "q4_0"])
def test_training_and_what_is_quantized_afterwards(mode):
    """Outputs are those of the quantized model before a step, and after `quantize()` again."""
    plain, lm = small_task(), small_task(learning_rate=0.02)
    x, *_ = lm.preprocess_samples(SMALL_ROWS)
    floats = logits(lm, x)
    plain.quantize(mode)
    lm.prepare_qat(mode)
    np.testing.assert_allclose(logits(lm, x), logits(plain, x), atol=1e-5)
    assert np.abs(logits(lm, x) - floats).max() > 1e-3
    teacher = small_task()
    learning = Distillation(teacher, num_samples=32)
    options = dict(batch_size=2, shuffle=False, verbose=0, epochs=3)
    start = matrices(lm)
    lm.fit(SMALL_ROWS, distillation=learning, **options)
    before, prepared = logits(lm, x), matrices(lm)
    lm.quantize()
    assert any(np.any(values != start[path]) for path, values in prepared.items())
    for path, values in matrices(lm).items():
        np.testing.assert_array_equal(values, prepared[path], err_msg=path)
    np.testing.assert_allclose(logits(lm, x), before, atol=1e-5)
    assert set(lm.backbone.quantized_layers.values()) == {"int4/32"}


@pytest.mark.once
def test_generation_and_scores_go_by_the_rounded_table():
    """Also where steps choose by a screened copy of it."""
    lm, quantized = (T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny") for _ in range(2))
    for one in (lm, quantized):
        one.compile(sampler="greedy")
    lm.generate(ROWS["encoder_text"][:1], max_new_tokens=4)  # its programs are forgotten
    lm.prepare_qat("int4/-1")
    quantized.quantize("int4/-1")
    np.testing.assert_allclose(lm.score(ROWS), quantized.score(ROWS), rtol=1e-4, atol=1e-4)
    texts = [one.generate(ROWS["encoder_text"], max_new_tokens=12) for one in (lm, quantized)]
    assert texts[0] == texts[1]


@pytest.mark.once
def test_what_cannot_be_prepared_is_refused():
    lm = small_task()
    with pytest.raises(ValueError, match="`quantize` must have a `mode`.*mode=None"):
        lm.quantize()
    for given, message in (
        ({"mode": "int3"}, '`mode` must be "int8", "int4".*mode=.int3'),
        ({"mode": "int4_sym/-1"}, "`mode` must be"),
        ({"mode": keras.quantizers.Int8QuantizationConfig()}, "rounds weights alone"),
        ({"mode": "int8", "filters": "nothing"}, "must be a layer to quantize"),
    ):
        with pytest.raises(ValueError, match=message):
            lm.prepare_qat(**given)
    lm.quantize("int8")
    with pytest.raises(ValueError, match="must be a layer to quantize"):
        lm.prepare_qat("int8")
    with pytest.raises(ValueError, match="while a model is loaded must be int8 or int4"):
        T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", quantize="q4_0")
