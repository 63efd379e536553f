"""The model inside the package: what it was not trained on, it does; the same on every backend."""

import json
import pathlib

import data
import numpy as np
import pytest

from keras_t5gemma2 import T5Gemma2Seq2SeqLM, evaluate_generation

# Written by `python tests/whole/test_tiny_preset.py`: the greedy answers to the sample.
ANSWERS = pathlib.Path(__file__).parent / "tiny_answers.json"
ROWS = 40  # of each task


@pytest.fixture(scope="module")
def sample():
    return data.held_out_examples(ROWS)


@pytest.fixture(scope="module")
def predictions(sample):
    return predict(sample)


def predict(sample):
    """Per task the greedy answers, all of one call."""
    lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    lm.compile(sampler="greedy")
    rows = data.rows_of([example for examples in sample.values() for example in examples])
    result = evaluate_generation(
        lm, rows, batch_size=70, metrics=["exact_match"], verbose=0, max_new_tokens=40
    )
    ends = np.cumsum([len(examples) for examples in sample.values()])[:-1]
    parts = np.split(np.array(result.predictions, dtype=object), ends)
    return {task: part.tolist() for task, part in zip(sample, parts, strict=True)}


@pytest.mark.once
@pytest.mark.parametrize(
    ("task", "least"),
    [
        ("number spelling", 95),
        ("date formatting", 95),
        ("digit from an image", 90),
        ("number from two images", 80),
    ],
)
def test_held_out_values(sample, predictions, task, least):
    right = [
        example.decoder_text == prediction
        for example, prediction in zip(sample[task], predictions[task], strict=True)
    ]
    assert 100 * np.mean(right) >= least


@pytest.mark.once
def test_answers_are_the_same_on_every_backend(predictions):
    assert predictions == json.loads(ANSWERS.read_text(encoding="utf-8"))


@pytest.mark.once
def test_the_preset_is_small():
    from keras_t5gemma2 import presets

    directory = pathlib.Path(presets["t5gemma2_tiny"]["directory"])
    assert sum(file.stat().st_size for file in directory.rglob("*") if file.is_file()) < 12e6


@pytest.mark.once
def test_its_count_of_parameters_is_said():
    from keras_t5gemma2 import T5Gemma2Backbone, presets

    backbone = T5Gemma2Backbone.from_preset("t5gemma2_tiny", load_weights=False)
    assert backbone.count_params() == presets["t5gemma2_tiny"]["metadata"]["params"]


if __name__ == "__main__":
    answers = predict(data.held_out_examples(ROWS))
    ANSWERS.write_text(json.dumps(answers, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
