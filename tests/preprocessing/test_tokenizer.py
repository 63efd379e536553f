"""`T5Gemma2Tokenizer` with small vocabularies of both kinds; `test_vocabulary.py` has the ids."""

import inspect
import json
import os
import pickle
import shutil
import subprocess
import sys

import huggingface_hub
import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
import tiny_vocabulary

from keras_t5gemma2.preprocessing.tokenizer import T5Gemma2Tokenizer
from keras_t5gemma2.vocabulary.sentencepiece_model import sentencepiece_model

KINDS = ["sentencepiece", "tokenizers"]
FILE = "vocabulary.model"
TEXTS = ["the cat", "", "<bos>see  the\n\ndog <table>", "garden é🙂<start_of_turn>\t"]


@pytest.fixture(scope="module")
def protos(tmp_path_factory):
    """The bytes of a file of each kind, with the same ids for everything that is added."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    data = tiny_vocabulary.tiny_tokenizer_json(path).read_bytes()
    content = json.loads(data)
    pieces = list(content["model"]["vocab"])
    added = {token["content"] for token in content["added_tokens"]}
    types = [3 if p in added else 6 if p.startswith("<0x") else 1 for p in pieces]
    scores = [-float(i) for i in range(len(pieces))]
    ids = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
    return {
        "tokenizers": data,
        "sentencepiece": sentencepiece_model(pieces, scores, types, **ids),
    }


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def tokenizer(protos, kind):
    return T5Gemma2Tokenizer(protos[kind])


@pytest.mark.once
def test_offsets_say_which_characters_a_token_stands_for(tokenizer):
    ids, offsets = tokenizer.tokenize_with_offsets(TEXTS)
    assert ids == tokenizer.tokenize(TEXTS)
    for text, of_row, spans in zip(TEXTS, ids, offsets, strict=True):
        assert [end - start > 0 for start, end in spans] == [True] * len(of_row)
        assert spans == sorted(spans)
        covered = {at for start, end in spans for at in range(start, end)}
        assert covered == set(range(len(text)))
        # Tokens that are no single byte spell what they stand for.
        for number, (start, end) in zip(of_row, spans, strict=True):
            token = tokenizer.id_to_token(number)
            if not token.startswith("<0x"):
                assert tokenizer.detokenize([number]) == text[start:end]
    one = tokenizer.tokenize_with_offsets("the cat")
    assert one == (ids[0], offsets[0])


def test_named_tokens_and_their_ids(tokenizer):
    found = {
        getattr(tokenizer, name): getattr(tokenizer, f"{name}_id")
        for name in (
            *("start_token", "end_token", "pad_token"),
            *("start_of_image_token", "end_of_image_token", "image_token"),
            *("start_of_turn_token", "end_of_turn_token"),
        )
    }
    assert found == {
        "<bos>": 2,
        "<eos>": 1,
        "<pad>": 0,
        "<start_of_image>": 5,
        "<end_of_image>": 6,
        "<image_soft_token>": 7,
        "<start_of_turn>": 8,
        "<end_of_turn>": 9,
    }
    # Turn markers stay visible in what is generated.
    assert sorted(tokenizer.special_token_ids) == [0, 1, 2, 5, 6, 7]
    assert len(tokenizer.special_tokens) == 6
    assert "<start_of_turn>" not in tokenizer.special_tokens


def test_tokens_that_a_vocabulary_does_not_have():
    tokenizer = T5Gemma2Tokenizer(_letters("<pad>", "<eos>", "<bos>"))
    assert tokenizer.image_token == "<image_soft_token>"
    assert tokenizer.image_token_id is None
    assert tokenizer.end_of_turn_token_id is None
    assert sorted(tokenizer.special_token_ids) == [0, 1, 2]
    assert sorted(tokenizer.special_tokens) == ["<bos>", "<eos>", "<pad>"]


@pytest.mark.parametrize("missing", ["<pad>", "<eos>", "<bos>"])
def test_a_missing_required_token_is_named(missing):
    names = [name if name != missing else "<other>" for name in ("<pad>", "<eos>", "<bos>")]
    with pytest.raises(ValueError, match=rf"must hold `<bos>`.*Missing: {missing}$"):
        T5Gemma2Tokenizer(_letters(*names))


def test_strings_in_every_form_give_the_same_lists(tokenizer):
    needed = [tokenizer.tokenize(text) for text in TEXTS]
    assert [type(row) for row in needed] == [list] * 4
    assert needed[0] and all(type(id) is int for row in needed for id in row)
    assert needed[1] == []
    encoded = [text.encode() for text in TEXTS]
    forms = [
        TEXTS,
        tuple(TEXTS),
        encoded,
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        np.array(encoded),
        np.array(encoded, dtype=object),
        tf.constant(TEXTS),
    ]
    for form in forms:
        for outputs in (tokenizer(form), tokenizer.tokenize(form)):
            assert outputs == needed, form
    for form in (
        TEXTS[2],
        encoded[2],
        np.str_(TEXTS[2]),
        np.array(TEXTS[2]),
        tf.constant(TEXTS[2]),
    ):
        assert tokenizer(form) == needed[2], form
    assert tokenizer([]) == []
    assert tokenizer(np.array([], dtype=object)) == []


@pytest.mark.parametrize(
    ("inputs", "error", "match"),
    [
        (["a", "b", 3], TypeError, r"`inputs\[2\]` must be a string. Received: 3 \(int\)"),
        (["a", None], TypeError, r"`inputs\[1\]` must be a string. Received: None"),
        ([["a"], "b"], TypeError, r"`inputs\[0\]` must be a string. Received: \['a'\]"),
        (None, TypeError, r"`inputs` must be a string. Received: None"),
        ({"text": "a"}, TypeError, r"`inputs` must be a string. Received: {'text': 'a'} \(dict\)"),
        (np.array([1, 2]), TypeError, "`inputs` must be strings. Received: ndarray of shape"),
        (np.array([["a"], ["b"]]), ValueError, r"an array of shape \(2, 1\)"),
        (["a", "b\ud800"], ValueError, r"`inputs\[1\]` must be valid Unicode.*ud800.*position 1"),
        ([b"ok", b"a\xff"], ValueError, r"`inputs\[1\]` must be valid Unicode.*0xff in position 1"),
    ],
)
def test_what_is_no_text_is_an_error_that_names_the_row(tokenizer, inputs, error, match):
    with pytest.raises(error, match=match):
        tokenizer(inputs)


def test_detokenize_inverts_tokenize(tokenizer):
    rows = tokenizer(TEXTS)
    assert tokenizer.detokenize(rows) == TEXTS
    assert [tokenizer.detokenize(row) for row in rows] == TEXTS
    assert tokenizer.detokenize(tf.ragged.constant(rows)) == TEXTS
    assert tokenizer.detokenize([np.array(row, "int32") for row in rows]) == TEXTS


def test_detokenize_takes_arrays_and_tensors(tokenizer):
    row = tokenizer("<bos>the dog<pad><eos>")
    rows = [row, row[::-1]]
    texts = [tokenizer.detokenize(row) for row in rows]
    assert texts[0] == "<bos>the dog<pad><eos>"
    for convert in (tuple, np.array, keras.ops.convert_to_tensor, tf.constant):
        assert tokenizer.detokenize(convert(row)) == texts[0]
        assert tokenizer.detokenize(convert(rows)) == texts
    assert tokenizer.detokenize([]) == ""
    assert tokenizer.detokenize([[], row]) == ["", texts[0]]
    assert tokenizer.detokenize(np.zeros((3, 0), "int32")) == [""] * 3
    assert tokenizer.detokenize(2) == "<bos>"


@pytest.mark.parametrize(
    ("ids", "error", "match"),
    [
        ([1, -1], ValueError, r"`inputs` must be ids from 0 to \d+. Received: id -1"),
        ([[1], [2, 99999]], ValueError, r"`inputs\[1\]` must be ids.* Received: id 99999"),
        ([1.5], TypeError, r"`inputs` must be integers. Received: dtype=float64"),
        (["<bos>"], TypeError, r"`inputs` must be integers. Received: dtype=<U5"),
        (np.zeros((2, 3, 5), int), ValueError, r"a row of ids. Received: shape=\(3, 5\)"),
    ],
)
def test_ids_out_of_the_vocabulary_are_an_error(tokenizer, ids, error, match):
    with pytest.raises(error, match=match):
        tokenizer.detokenize(ids)


def test_vocabulary(tokenizer):
    tokens = tokenizer.get_vocabulary()
    assert len(tokens) == tokenizer.vocabulary_size() > 300
    for index in (0, 7, 41, len(tokens) - 1):
        assert tokenizer.id_to_token(index) == tokens[index]
        assert tokenizer.token_to_id(tokens[index]) == index
    assert tokenizer.token_to_id(b"<bos>") == 2
    assert tokenizer.token_to_id("no such token") == tokenizer.token_to_id("<unk>") == 3
    with pytest.raises(ValueError, match=rf"`id` must be ids.* Received: id {len(tokens)}"):
        tokenizer.id_to_token(len(tokens))


def test_an_unknown_token_without_a_token_for_it(protos):
    content = json.loads(protos["tokenizers"])
    content["model"]["unk_token"] = None
    tokenizer = T5Gemma2Tokenizer(json.dumps(content).encode())
    with pytest.raises(ValueError, match=r"`token` must be .*token='no such token'"):
        tokenizer.token_to_id("no such token")


def test_a_traced_pipeline_gives_the_same_ids(tokenizer):
    needed = tokenizer(TEXTS)
    dataset = tf.data.Dataset.from_tensor_slices(TEXTS)
    single = dataset.map(tokenizer)
    assert single.element_spec == tf.TensorSpec((None,), tf.int32)
    assert [row.numpy().tolist() for row in single] == needed
    batched = dataset.batch(4, drop_remainder=True).map(tokenizer)
    assert batched.element_spec.shape.as_list() == [4, None]
    assert next(iter(batched)).to_list() == needed
    batched = dataset.batch(3).map(tokenizer.tokenize)
    assert batched.element_spec == tf.RaggedTensorSpec((None, None), tf.int32)
    assert [batch.to_list() for batch in batched] == [needed[:3], needed[3:]]
    assert tf.function(tokenizer)(tf.constant(["", ""])).to_list() == [[], []]


@pytest.mark.parametrize("inputs", [[[b"a"], [b"b"]], [1, 2]])
def test_a_traced_pipeline_of_something_else_is_an_error(tokenizer, inputs):
    dataset = tf.data.Dataset.from_tensors(inputs)
    with pytest.raises(TypeError, match=r"a vector of strings. Received: dtype=\w+, shape=\(2"):
        dataset.map(tokenizer.tokenize)


def test_the_configuration_is_complete_and_small(tokenizer):
    config = tokenizer.get_config()
    assert config["proto"] is None
    assert {"proto", "name", "dtype", "config_file"} <= set(config)
    assert set(inspect.signature(T5Gemma2Tokenizer).parameters) - {"kwargs"} <= set(config)
    assert len(json.dumps(config)) < 1000


def test_a_tokenizer_without_a_vocabulary_says_so(tokenizer, tmp_path):
    revived = T5Gemma2Tokenizer.from_config(tokenizer.get_config())
    assert revived.start_token_id is None
    uses = [
        lambda: revived("a"),
        lambda: revived.detokenize([1]),
        revived.get_vocabulary,
        revived.vocabulary_size,
        lambda: revived.token_to_id("a"),
        lambda: revived.id_to_token(1),
        lambda: revived.save_assets(str(tmp_path)),
    ]
    for use in uses:
        with pytest.raises(ValueError, match=r"no vocabulary yet. Pass `proto`"):
            use()
    with pytest.raises(ValueError, match="before a vocabulary has been set"):
        _ = revived.special_token_ids
    with pytest.raises(ValueError, match=rf"'{tmp_path / FILE}' \(No such file or directory\)"):
        revived.load_assets(str(tmp_path))


def test_a_configuration_cannot_make_it_read_a_file(tokenizer):
    config = {**tokenizer.get_config(), "proto": "/etc/hostname"}
    with pytest.raises(ValueError, match=r"must be None. Received: proto='/etc/hostname'"):
        T5Gemma2Tokenizer.from_config(config)


def test_assets_are_the_one_file_it_was_made_of(protos, kind, tokenizer, tmp_path):
    assert tokenizer.file_assets == [FILE]
    tokenizer.save_assets(str(tmp_path))
    assert os.listdir(tmp_path) == [FILE]
    assert (tmp_path / FILE).read_bytes() == protos[kind]
    revived = T5Gemma2Tokenizer()
    revived.load_assets(str(tmp_path))
    assert revived(TEXTS) == tokenizer(TEXTS)
    assert revived.special_token_ids == tokenizer.special_token_ids


def test_a_preset_takes_one_kind_after_the_other(protos, tmp_path):
    _write_backbone_config(tmp_path)
    for kind in (*KINDS, *KINDS):
        tokenizer = T5Gemma2Tokenizer(protos[kind])
        tokenizer.save_to_preset(str(tmp_path))
        assert os.listdir(tmp_path / "assets" / "tokenizer") == [FILE]
        for base in (T5Gemma2Tokenizer, keras_hub.tokenizers.Tokenizer):
            revived = base.from_preset(str(tmp_path))
            assert type(revived) is T5Gemma2Tokenizer
            assert revived(TEXTS) == tokenizer(TEXTS)


def test_a_preset_without_a_vocabulary_says_so(tokenizer, tmp_path):
    _write_backbone_config(tmp_path)
    tokenizer.save_to_preset(str(tmp_path))
    shutil.rmtree(tmp_path / "assets")
    with pytest.raises(FileNotFoundError, match=rf"`assets/tokenizer/{FILE}`.*`{tmp_path}`"):
        T5Gemma2Tokenizer.from_preset(str(tmp_path))


def test_presets_of_the_hugging_face_hub(tokenizer, tmp_path, monkeypatch):
    def download(repo_id, filename):
        assert (repo_id, filename) == ("somebody/tiny", f"assets/tokenizer/{FILE}")
        return str(tmp_path / FILE)

    tokenizer.save_assets(str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    revived = T5Gemma2Tokenizer()
    revived.load_preset_assets("hf://somebody/tiny")
    assert revived(TEXTS) == tokenizer(TEXTS)


@keras.saving.register_keras_serializable(package="test_tokenizer")
class Reader(keras.Model):
    def __init__(self, tokenizer, **kwargs):
        super().__init__(**kwargs)
        self.tokenizer = tokenizer
        self.built = True

    def call(self, inputs):
        return inputs

    def get_config(self):
        return {
            **super().get_config(),
            "tokenizer": keras.saving.serialize_keras_object(self.tokenizer),
        }

    @classmethod
    def from_config(cls, config):
        tokenizer = keras.saving.deserialize_keras_object(config.pop("tokenizer"))
        return cls(tokenizer, **config)


def test_keras_files_hold_the_vocabulary(tokenizer, tmp_path):
    model = Reader(tokenizer)
    model(np.zeros((2, 3)))
    model.save(tmp_path / "model.keras")
    revived = keras.saving.load_model(tmp_path / "model.keras")
    assert revived.tokenizer(TEXTS) == tokenizer(TEXTS)


def test_pickles_hold_the_vocabulary(tokenizer):
    assert pickle.loads(pickle.dumps(tokenizer))(TEXTS) == tokenizer(TEXTS)


@pytest.mark.slow
def test_tensorflow_is_not_needed(protos, tmp_path):
    path = tmp_path / "vocabulary"
    path.write_bytes(protos["sentencepiece"])
    code = (
        "import sys; sys.modules['tensorflow'] = None; sys.modules['tensorflow_text'] = None\n"
        "from keras_t5gemma2.preprocessing.tokenizer import T5Gemma2Tokenizer\n"
        f"tokenizer = T5Gemma2Tokenizer({str(path)!r})\n"
        f"assert tokenizer.detokenize(tokenizer({TEXTS!r})) == {TEXTS!r}"
    )
    backend = keras.backend.backend().replace("tensorflow", "jax")
    environment = {**os.environ, "KERAS_BACKEND": backend}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def _write_backbone_config(directory):
    """All that a tokenizer needs of the backbone in its preset."""
    config = {"registered_name": "keras_t5gemma2>T5Gemma2Backbone"}
    (directory / "config.json").write_text(json.dumps(config))


def _letters(*special):
    """A SentencePiece model of a few letters, whose first ids are these control tokens."""
    pieces = [*special, "<unk>", "▁", "a", "b"]
    types = [3] * len(special) + [2, 1, 1, 1]
    ids = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
    return sentencepiece_model(pieces, [0.0] * len(pieces), types, **ids)


@pytest.mark.once
@pytest.mark.parametrize(
    "options", [{"dtype": "string"}, {"add_bos": True}, {"add_eos": True}, {"sequence_length": 8}]
)
def test_an_option_that_cannot_be_chosen_is_refused_by_name(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"`{name}` of a T5Gemma2Tokenizer must be .*{name}="):
        T5Gemma2Tokenizer(**options)
    T5Gemma2Tokenizer(dtype="int32", add_bos=False, add_eos=False, sequence_length=None)
    with pytest.raises(TypeError, match="no argument `add_bs`"):
        T5Gemma2Tokenizer(add_bs=True)
