"""Messages in all their forms, as rows."""

import numpy as np
import pytest
from dialogues import IMAGE, model, system, text, user
from preprocessors import TOKENIZER, plain, random_image, tiny_preprocessor

from keras_t5gemma2.preprocessing.dialogues import dialogue_of, parts_of_text, with_images
from keras_t5gemma2.preprocessing.rows import parse_rows
from keras_t5gemma2.preprocessing.sources import is_row, read_rows

pytestmark = pytest.mark.once
DIALOGUE = [system("Be short."), user("the cat"), model("a dog"), user("what?"), model("a bee")]
OTHER = [user("here"), model("is")]


def texts_of(rows):
    """Per row what the encoder reads, what the decoder writes, and the number of the dialogue."""
    encoded, _ = tiny_preprocessor(decoder_sequence_length=40).encode_rows(rows, training=True)
    pairs = zip(encoded.encoder_ids, encoded.decoder_ids, strict=True)
    return [(TOKENIZER.detokenize(a), TOKENIZER.detokenize(b)) for a, b in pairs]


def test_a_dialogue_is_a_row_for_each_answer():
    first, second, third = texts_of({"messages": [DIALOGUE, OTHER]})
    start = "<bos><start_of_turn>user\nBe short.\n\nthe cat<end_of_turn>\n<start_of_turn>model\n"
    assert first == (start, "<bos>a dog<end_of_turn><eos>")
    more = "a dog<end_of_turn>\n<start_of_turn>user\nwhat?<end_of_turn>\n<start_of_turn>model\n"
    assert second == (start + more, "<bos>a bee<end_of_turn><eos>")
    assert third[1] == "<bos>is<end_of_turn><eos>"


FORMS = {
    "a list of dicts": [{"messages": DIALOGUE}, {"messages": OTHER}],
    "dialogues alone": [DIALOGUE, OTHER],
    "tuples": {"messages": [tuple(DIALOGUE), tuple(OTHER)]},
    "arrays": {"messages": [np.array(DIALOGUE, object), np.array(OTHER, object)]},
    "an array": {"messages": np.array([DIALOGUE, OTHER], object)},
    "None beside": {"messages": [DIALOGUE, OTHER], "images": None},
}


@pytest.mark.parametrize("form", FORMS)
def test_dialogues_come_in_many_forms(form):
    assert texts_of(FORMS[form]) == texts_of({"messages": [DIALOGUE, OTHER]})


def test_tables_hold_dialogues():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"talk": [DIALOGUE, OTHER], "more": [1, 2]})
    with pytest.warns(UserWarning, match="Not read, .*'more'"):
        rows, _ = read_rows(frame.rename(columns={"talk": "messages"}), answers=True)
    assert texts_of(rows) == texts_of([DIALOGUE, OTHER])


def test_prompts_and_completions_are_dialogues():
    want = texts_of([OTHER])
    assert texts_of({"prompt": ["here"], "completion": ["is"]}) == want
    assert texts_of({"prompt": [OTHER[:1]], "completion": [OTHER[1:]]}) == want
    assert texts_of({"prompt": OTHER[:1], "completion": OTHER[1:]}) == want
    assert texts_of([{"prompt": "here", "completion": OTHER[1:]}]) == want
    # The answers of a prompt are not learned.
    pair = {"prompt": [DIALOGUE[:-1]], "completion": [DIALOGUE[-1:]]}
    assert texts_of(pair) == texts_of([DIALOGUE])[1:]


def test_to_generate_a_dialogue_is_one_row():
    rows, is_single = parse_rows(DIALOGUE[:-1])
    assert is_single and len(rows) == 1 and rows[0].decoder_text is None
    rows, is_single = parse_rows({"messages": [DIALOGUE[:-1], OTHER[:1]]})
    assert not is_single and [row.number for row in rows] == [0, 1]
    arrays = tiny_preprocessor().generate_preprocess(DIALOGUE[:-1])
    ids = arrays["encoder_token_ids"][arrays["encoder_padding_mask"]]
    assert ids.tolist() == tiny_preprocessor().apply_chat_template(DIALOGUE[:-1], tokenize=True)


def test_a_completion_is_not_read_where_it_is_to_be_written():
    with pytest.warns(UserWarning, match="`completion` of dialogues is not read"):
        rows, _ = parse_rows({"prompt": ["here"], "completion": ["is"]})
    assert rows[0].decoder_text is None


def test_images_of_parts_come_in_their_order():
    a, b, c = (random_image(seed=seed) for seed in range(3))
    content = [{"type": "image", "image": a}, text("and"), IMAGE]
    dialogue = [
        user(content),
        model("a cat"),
        user([{"type": "image_url", "image_url": {"url": c}}]),
    ]
    rows, _ = parse_rows({"messages": [dialogue], "images": [[b]]})
    assert rows[0].images == [a, b, c]
    rows, _ = parse_rows({"messages": [[*dialogue, model("a dog")]], "images": [b]}, answers=True)
    assert [row.images for row in rows] == [[a, b], [a, b, c]]


@pytest.mark.parametrize("key", ["image", "path", "url", "image_url"])
def test_images_stand_under_several_names(key):
    (image,) = dialogue_of([user([{"type": "image", key: "cat.png", "text": None}])]).images
    assert image == "cat.png"


def test_base64_is_a_data_url():
    assert dialogue_of([user([{"type": "image", "base64": "aGk="}])]).images == [
        "data:image;base64,aGk="
    ]


def test_images_without_a_place_stand_before_the_last_message_of_the_user():
    a = random_image()
    one = with_images(dialogue_of([user("a"), model("b"), user("c"), model("d")]), a)
    assert [m["content"] for m in one.messages] == ["a", "b", [IMAGE, text("c")], "d"]
    assert one.images == [a]
    rows, _ = parse_rows({"messages": user_dialogue("what"), "images": [a, a]})
    ids = tiny_preprocessor().encode_rows(rows)[0]
    assert len(ids.images[0]) == 2


def user_dialogue(content):
    return [user(content)]


def test_images_and_text_that_looks_like_their_marker():
    a = random_image()
    dialogue = [user([IMAGE, text("<start_of_image> the <image_soft_token>")])]
    encoded, _ = tiny_preprocessor().encode_rows({"messages": dialogue, "images": [a]})
    ids = encoded.encoder_ids[0].tolist()
    assert ids.count(TOKENIZER.start_of_image_token_id) == 1
    assert ids.count(TOKENIZER.image_token_id) == 3  # of the one image
    assert "<start_of_image> the <image_soft_token>" in TOKENIZER.detokenize(ids)


@pytest.mark.parametrize(
    ("x", "match"),
    [
        ({"messages": [[{"role": "user"}]]}, r"Received in row 0: \{'role': 'user'\}"),
        ({"messages": [[user(None)]]}, "a message of the role 'user' with content=None"),
        ({"messages": [[user(7)]]}, "with content=7"),
        ({"messages": [[{"content": "a"}]]}, r"Received in row 0: \{'content': 'a'\}"),
        ({"messages": [OTHER, []]}, r"must be a list of messages: .* in row 1: \[\]"),
        ({"messages": [[user([text(7)]), model("a")]]}, "no other parts. Received in row 0"),
        ({"messages": [[user([{"type": "video"}])]]}, "{'type': 'video'}"),
        ({"messages": [[user("a")]]}, r"message of the role 'assistant'. .* the roles \['user'\]"),
        ({"messages": [[model("a")]]}, "follow another message. .* message 0 of the role"),
        (
            {"messages": [[user("a"), model([{"type": "image", "image": "a.png"}])]]},
            "must be text, .* message 1 of the role",
        ),
        ({"messages": [OTHER], "prompt": ["a"]}, r"nothing beside it.*\['messages', 'prompt'\]"),
        ({"completion": ["a"]}, r"Received: \['completion'\]"),
        (
            {"prompt": ["a", "b"], "completion": ["a"]},
            "{'prompt': 2, 'completion': 1, 'images': 2}",
        ),
        ({"messages": []}, "at least one"),
        ({"messages": [OTHER], "images": ["a", "b"]}, "{'messages': 1, 'images': 2}"),
    ],
)
def test_what_cannot_be_learned_is_refused(x, match):
    with pytest.raises(ValueError, match=match):
        parse_rows(x, answers=True)


def test_y_beside_dialogues_is_refused():
    with pytest.raises(
        ValueError, match=r"answers are a part of it.* \['messages', 'decoder_text'\]"
    ):
        parse_rows({"messages": [OTHER]}, ["a"], answers=True)


def test_the_last_message_must_not_be_the_models_to_go_on():
    with pytest.raises(
        ValueError, match="must not end with a message of its own.* row 0: 2 messages"
    ):
        parse_rows([OTHER])


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (["a", "b"], "1 such parts, and 2 images beside"),
        (None, "1 such parts, and 0 images beside"),
    ],
)
def test_images_must_fit_their_places(images, match):
    with pytest.raises(ValueError, match=match):
        parse_rows({"messages": [user([IMAGE])], "images": images})


def test_images_need_a_message_of_the_user():
    with pytest.raises(ValueError, match="0 such parts, and 1 images"):
        with_images(dialogue_of([system("a")]), "cat.png")


def test_one_dialogue_is_a_row_of_a_stream():
    assert is_row({"messages": OTHER}) and is_row({"prompt": "a"})
    assert not is_row({"messages": [OTHER]}) and not is_row({"prompt": ["a"]})


def test_columns_of_texts_go_before_those_of_dialogues():
    with pytest.warns(UserWarning, match=r"Not read, .*\['prompt'\]"):
        rows, _ = parse_rows({"encoder_text": ["a"], "prompt": ["b"]})
    assert rows[0].encoder_text == "a"


def test_weights_and_lengths_of_a_dialogue_are_those_of_rows():
    _, labels, weights = tiny_preprocessor()({"messages": [DIALOGUE, OTHER]})
    assert len(labels) == 3 and plain(weights.sum(axis=1)) == [4.0, 4.0, 3.0]


def test_parts_of_text():
    assert parts_of_text("a<>b", None) == "a<>b"
    assert parts_of_text("a<>b", "<>") == [text("a"), IMAGE, text("b")]
