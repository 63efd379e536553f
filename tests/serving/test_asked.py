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
    ("call", "body", "param", "message"),
    [
        (completion_of, {"prompt": ["a"] * 17}, "prompt", "may ask for 16 texts. Received: 17"),
        (completion_of, {"prompt": [1, 2]}, "prompt", "Received: prompt=[1, 2]"),
        (completion_of, {"prompt": "a", "seed": 1.5}, "seed", "an integer. Received: seed=1.5"),
        (
            completion_of,
            {"prompt": "a", "decoder_text": 3},
            "decoder_text",
            "must be a string, what each text begins with. Received: decoder_text=3",
        ),
        (
            completion_of,
            {"prompt": ["a", "b"], "images": ["c"]},
            "images",
            "must be a list of data URLs, beside one prompt. Received: images=['c']",
        ),
        (
            completion_of,
            {"prompt": "a", "images": ["c"] * 9},
            "images",
            "A request may have 8 images. Received: 9 images",
        ),
        (
            completion_of,
            {"prompt": "a", "stop": ["b"] * 17},
            "stop",
            "`stop` must be at most 16 strings. Received: stop=['b'",
        ),
        (
            completion_of,
            {"prompt": "a", "stream_options": {"include_usage": True}},
            "stream_options",
            "must be an object, beside stream=true. Received: stream_options={",
        ),
        (chat_of, {"messages": "a"}, "messages", "a list of messages. Received: messages='a'"),
        (
            chat_of,
            {"messages": [{"role": "tool", "content": "a"}]},
            "messages[0].role",
            "`role` of a message must be system, developer, user or assistant. Received: role='t",
        ),
        (
            chat_of,
            {"messages": [{"role": "user", "content": []}]},
            "messages[0].content",
            "must be a string or a list of parts. Received: content=[]",
        ),
        (
            chat_of,
            {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
            "messages[0].content",
            "Received: {'type': 'audio'}",
        ),
        (
            chat_of,
            {"messages": [{"role": "user", "content": "a"}], "top_logprobs": 2},
            "top_logprobs",
            "`top_logprobs` needs `logprobs`. Received: logprobs=false",
        ),
        (embedding_of, {"input": []}, "input", "a list of strings. Received: input=[]"),
        (
            embedding_of,
            {"input": ["a"] * 257},
            "input",
            "`input` may have 256 texts. Received: 257 texts",
        ),
        (
            embedding_of,
            {"input": "a", "encoding_format": "hex"},
            "encoding_format",
            'must be "float" or "base64". Received: encoding_format=\'hex\'',
        ),
        (embedding_of, {"input": "a", "prompt": 3}, "prompt", "a string. Received: prompt=3"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_what_is_refused(call, body, param, message):
    with pytest.raises(RequestError) as caught:
        call(body, Limits())
    assert caught.value.param == param
    assert message in caught.value.message
