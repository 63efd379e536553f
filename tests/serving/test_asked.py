"""Bodies in the package's words; what is refused is in tests/serving/test_app.py."""

import pytest

from keras_t5gemma2.serving.asked import chat_of, completion_of, embedding_of
from keras_t5gemma2.serving.errors import RequestError
from keras_t5gemma2.serving.limits import Limits

pytestmark = pytest.mark.once
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def test_a_completion():
    body = {"prompt": "a", "stop": "b", "n": 2, "seed": -1, "temperature": 1, "user": "me"}
    body |= {"presence_penalty": 0, "best_of": 2, "echo": False, "stream": None, "logprobs": 0}
    asked = completion_of(body, Limits())
    assert asked.settings == {"stop": ["b"], "seed": 2**63 - 1, "temperature": 1}
    assert (asked.count, asked.alternatives, asked.streams) == (2, 0, False)
    decoder = completion_of({"prompt": ["a", "b"], "decoder_text": "c"}, Limits())
    assert [row["decoder_text"] for row in decoder.inputs] == ["c", "c"]


def test_a_dialogue():
    form = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}}
    messages = [{"role": "developer", "content": "a"}, {"role": "user", "content": "b"}]
    options = {"max_completion_tokens": 5, "logprobs": True, "stream": True}
    options["stream_options"] = {"include_usage": True}
    asked = chat_of({"messages": messages, "response_format": form, **options}, Limits())
    assert [m["role"] for m in asked.inputs[0]["messages"]] == ["system", "user"]
    assert asked.settings["constraint"].key[0] == "json_schema"
    assert (asked.max_new_tokens, asked.alternatives, asked.has_usage) == (5, 0, True)


@pytest.mark.parametrize(
    ("call", "body", "param"),
    [
        (completion_of, {"prompt": ["a"] * 17}, "prompt"),
        (completion_of, {"prompt": [1, 2]}, "prompt"),
        (completion_of, {"prompt": "a", "seed": 1.5}, "seed"),
        (completion_of, {"prompt": "a", "decoder_text": 3}, "decoder_text"),
        (completion_of, {"prompt": ["a", "b"], "images": ["c"]}, "images"),
        (completion_of, {"prompt": "a", "images": ["c"] * 9}, "images"),
        (
            completion_of,
            {"prompt": "a", "stream_options": {"include_usage": True}},
            "stream_options",
        ),
        (chat_of, {"messages": "a"}, "messages"),
        (chat_of, {"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        (embedding_of, {"input": []}, "input"),
        (embedding_of, {"input": "a", "encoding_format": "hex"}, "encoding_format"),
        (embedding_of, {"input": "a", "prompt": 3}, "prompt"),
    ],
)
def test_what_is_refused(call, body, param):
    with pytest.raises(RequestError) as caught:
        call(body, Limits())
    assert caught.value.param == param
