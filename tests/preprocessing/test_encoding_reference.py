"""The preprocessor against the reference's processor."""

import json

import numpy as np
import pytest
from preprocessors import (
    IMAGE,
    MARKER,
    SIZE,
    TOKENIZER,
    TOKENS_PER_IMAGE,
    plain,
    random_image,
    tiny_preprocessor,
)
from tiny_vocabulary import tiny_tokenizer_json
from transformers import GemmaTokenizer
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.gemma3.processing_gemma3 import Gemma3Processor

from keras_t5gemma2.preprocessing.image_converter import T5Gemma2ImageConverter
from keras_t5gemma2.preprocessing.preprocessor import T5Gemma2Seq2SeqLMPreprocessor

SOFT_TOKEN = "<image_soft_token>"


@pytest.fixture(scope="module")
def processors(tmp_path_factory):
    """The reference's processors by the number of tokens per image."""
    folder = tmp_path_factory.mktemp("processor")
    tiny_tokenizer_json(folder / "tokenizer.json")
    tokens = {"boi_token": MARKER, "eoi_token": "<end_of_image>", "image_token": SOFT_TOKEN}
    config = {"tokenizer_class": "GemmaTokenizer", "extra_special_tokens": tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = GemmaTokenizer.from_pretrained(folder)
    converter = Gemma3ImageProcessorPil(size={"height": SIZE[0], "width": SIZE[1]})
    return {
        count: Gemma3Processor(converter, tokenizer, image_seq_length=count)
        for count in (TOKENS_PER_IMAGE, 256)
    }


PROMPTS = {
    "text alone": (["What is in this?", "", " a  cat\n\n and\t a dog é 日\n"], None),
    "image at the start": ([f"{MARKER} in this image, there is"], [[(9, 8)]]),
    "no spaces": ([f"cat{MARKER}dog"], [[(9, 8)]]),
    "newlines around": ([f"the cat\n{MARKER}\n\n\na dog"], [[(9, 8)]]),
    "images side by side": ([f"{MARKER}{MARKER} {MARKER}\n{MARKER}"], [[(9, 8), (1, 1)] * 2]),
    "rows with different numbers": (
        [f"a {MARKER} b {MARKER}", "none here", f"{MARKER}"],
        [[(9, 8), (3, 20)], [], [(600, 300)]],
    ),
    "long images": (
        [f"{MARKER}\nWhat is this? {MARKER}", f"\n{MARKER}{MARKER}"],
        [[(300, 700), (9, 8)], [(1111, 300), (256, 308)]],
    ),
    "images alone": (None, [[(9, 8), (300, 700)]]),
}


@pytest.mark.parametrize("pan_and_scan", [False, True])
@pytest.mark.parametrize("case", PROMPTS)
def test_encoding_equals_reference(processors, case, pan_and_scan):
    text, sizes = PROMPTS[case]
    images = sizes and [[random_image(*size, seed=11) for size in row] for row in sizes]
    options = {}
    if sizes:
        rule = ("min_crop_size", 256), ("max_num_crops", 4), ("min_ratio_to_activate", 1.2)
        options = {f"pan_and_scan_{name}": value for name, value in rule}
        options["do_pan_and_scan"] = pan_and_scan
    expected = processors[TOKENS_PER_IMAGE](text=text, images=images, **options)

    x = {"encoder_text": text, "images": images}
    encoded, _ = tiny_preprocessor(pan_and_scan=pan_and_scan).encode_rows(x)
    assert plain(encoded.encoder_ids) == expected["input_ids"]
    pixels = [np.transpose(image, (1, 2, 0)) for image in expected.get("pixel_values", [])]
    flat = [image for row in encoded.images for image in row]
    np.testing.assert_allclose(flat, pixels, atol=1e-6)
    counts = [np.sum(row == IMAGE) for row in encoded.encoder_ids]
    assert counts == [len(row) * TOKENS_PER_IMAGE for row in encoded.images]


def test_block_of_the_published_size_equals_reference(processors):
    text, images = f"a {MARKER} b", [[random_image()]]
    expected = processors[256](text=[text], images=images)
    preprocessor = T5Gemma2Seq2SeqLMPreprocessor(TOKENIZER, T5Gemma2ImageConverter(SIZE))
    encoded, _ = preprocessor.encode_rows({"encoder_text": text, "images": images[0]})
    assert plain(encoded.encoder_ids) == expected["input_ids"]
    assert np.sum(encoded.encoder_ids[0] == IMAGE) == 256
