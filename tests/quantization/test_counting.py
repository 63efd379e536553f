"""How many parameters a model has, whatever stores them."""

import re

import keras
import pytest
from tasks import SMALL_ROWS, small_task

pytestmark = pytest.mark.once


def _counts(model):
    lines = []
    model.summary(print_fn=lambda text, **_: lines.append(text))
    found = re.findall(r" ([\w-]+) params: ([\d,]+)", "\n".join(lines))
    return {name: int(count.replace(",", "")) for name, count in found}


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_quantized_model_counts_the_parameters_that_it_stands_for(mode):
    lm = small_task()
    total = sum(int(variable.value.numel()) for variable in lm.weights)
    layers = {layer.name: layer.count_params() for layer in (lm.backbone.encoder, lm.backbone)}
    assert lm.count_params() == total and _counts(lm)["Total"] == total
    lm.quantize(mode)
    assert lm.count_params() == lm.backbone.count_params() == total
    for layer in (lm.backbone.encoder, lm.backbone):
        assert layer.count_params() == layers[layer.name]
    counts = _counts(lm)
    assert counts["Total"] == counts["Trainable"] + counts["Non-trainable"] == total
    assert _counts(lm.backbone)["Total"] == total

    lm.enable_lora(rank=2, target=["query"])
    adapters = sum(int(variable.value.numel()) for variable in lm.trainable_variables)
    counts = _counts(lm)
    assert (counts["Trainable"], counts["Non-trainable"]) == (adapters, total)
    lm.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    lm.fit(SMALL_ROWS, verbose=0)
    counts = _counts(lm)
    assert counts["Optimizer"] == adapters + 2
    assert counts["Total"] == total + adapters + counts["Optimizer"]


def test_a_summary_is_printed(capsys):
    lm = small_task()
    lm.quantize("int8")
    lm.summary()
    assert f"Total params: {lm.count_params():,} (" in capsys.readouterr().out
