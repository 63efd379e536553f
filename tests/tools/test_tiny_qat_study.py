"""The start of quantization-aware training, as the tool has it."""

import pathlib
import sys

import numpy as np
import pytest
from keras import ops

from keras_t5gemma2 import T5Gemma2Seq2SeqLM

TOOLS = pathlib.Path(__file__).parents[2] / "tools" / "tiny"


def matrices(lm):
    layers = [*lm.adapter_set.layers().values(), lm.backbone.token_embedding]
    return [np.array(ops.convert_to_numpy(layer.float_matrix())) for layer in layers]


@pytest.mark.slow
@pytest.mark.once
def test_columns_are_clipped_where_rounding_costs_less(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    for name in ("data", "qat_study"):
        sys.modules.pop(name, None)
    import qat_study

    teacher, plain, cut = (T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny") for _ in range(3))
    before = matrices(teacher)
    qat_study.clip(cut, "int4/-1")
    for old, new in zip(before, matrices(cut), strict=True):
        is_cut = old != new
        assert 0 < is_cut.mean() < 0.1
        assert (np.abs(new[is_cut]) < np.abs(old[is_cut])).all()
    for lm in (plain, cut):
        lm.quantize("int4/-1")
    for old, one, two in zip(before, matrices(plain), matrices(cut), strict=True):
        assert np.square(two - old).sum() < np.square(one - old).sum()
    rows = qat_study.held_out_rows(60)
    found = [qat_study.divergence(teacher, lm, rows) for lm in (plain, cut)]
    assert found[1] < 0.9 * found[0]
