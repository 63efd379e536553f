"""What checkpoints say about images, and where their tokenizer is."""

import json

import pytest

from keras_t5gemma2.checkpoints.transformers.files import read_processor, tokenizer_file

PUBLISHED = {
    "image_processor": {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pan_and_scan": None,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "Gemma3ImageProcessorFast",
        "image_seq_length": 256,
        "image_std": [0.5, 0.5, 0.5],
        "pan_and_scan_max_num_crops": None,
        "pan_and_scan_min_crop_size": None,
        "pan_and_scan_min_ratio_to_activate": None,
        "resample": 2,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 896, "width": 896},
    },
    "image_seq_length": 256,
    "processor_class": "Gemma3Processor",
}


def write(directory, name, values):
    (directory / name).write_text(json.dumps(values))


def test_published_processor(tmp_path):
    write(tmp_path, "processor_config.json", PUBLISHED)
    assert read_processor(tmp_path) == {"image_size": (896, 896), "tokens_per_image": 256}


def test_older_file_with_pan_and_scan(tmp_path):
    values = {
        "size": {"height": 28, "width": 35},
        "image_seq_length": 4,
        "do_pan_and_scan": True,
        "pan_and_scan_min_crop_size": 64,
        "pan_and_scan_max_num_crops": 3,
        "pan_and_scan_min_ratio_to_activate": 1.5,
    }
    write(tmp_path, "preprocessor_config.json", values)
    assert read_processor(tmp_path) == {
        "image_size": (28, 35),
        "tokens_per_image": 4,
        "pan_and_scan": True,
        "min_crop_size": 64,
        "max_num_crops": 3,
        "min_ratio_to_activate": 1.5,
    }


def test_newer_file_wins(tmp_path):
    write(tmp_path, "preprocessor_config.json", {"size": {"height": 28, "width": 28}})
    write(tmp_path, "processor_config.json", PUBLISHED)
    assert read_processor(tmp_path)["image_size"] == (896, 896)


def test_no_processor(tmp_path):
    assert read_processor(tmp_path) == {}


def test_the_references_own_files(tmp_path):
    from transformers import Gemma3ImageProcessorPil

    Gemma3ImageProcessorPil(size={"height": 28, "width": 35}).save_pretrained(tmp_path)
    assert read_processor(tmp_path) == {"image_size": (28, 35)}


@pytest.mark.parametrize(
    "key, value",
    [
        ("resample", 3),
        ("image_mean", [0.48, 0.46, 0.41]),
        ("image_std", 0.5),
        ("image_std", [0.5, 0.5]),
        ("do_resize", False),
        ("do_normalize", "yes"),
        ("rescale_factor", 1.0),
        ("size", {"shortest_edge": 224}),
        ("size", {"height": 896, "width": 0}),
        ("size", 896),
    ],
)
def test_other_treatment_of_images(tmp_path, key, value):
    write(tmp_path, "processor_config.json", {"image_processor": {key: value}})
    with pytest.raises(ValueError, match=f"`{key}` of the image processor") as error:
        read_processor(tmp_path)
    assert repr(value) in str(error.value)


def test_tokenizer_file(tmp_path):
    assert tokenizer_file(tmp_path) is None
    (tmp_path / "tokenizer.model").touch()
    assert tokenizer_file(tmp_path) == tmp_path / "tokenizer.model"
    (tmp_path / "tokenizer.json").touch()
    assert tokenizer_file(tmp_path) == tmp_path / "tokenizer.json"
