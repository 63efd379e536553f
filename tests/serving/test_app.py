"""The endpoint, as the official client of OpenAI's API sees it."""

import asyncio
import base64
import concurrent.futures
import io
import json
import math
import sys
import threading
import time

import httpx
import numpy as np
import openai
import pytest
from PIL import Image
from served import KEY, NAME, client_of, served, tiny

import keras_t5gemma2
from keras_t5gemma2 import constraints
from keras_t5gemma2.serving import app
from keras_t5gemma2.serving.limits import Limits

TEXTS = ["Spell 4268 in German.", "Write 2026-12-17 in Hindi.", "Spell 42 in German."]
LENGTH = {"max_new_tokens": 32, "verbose": 0}
USER = [{"role": "user", "content": TEXTS[0]}]
BLACK = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.fixture(scope="module")
def lm():
    return tiny()


@pytest.fixture(scope="module")
def server(lm):
    limits = Limits(body_bytes=1 << 20, max_tokens=48, texts=6, inputs=4, images=2)
    with served(lm, limits, most_rows=8) as (address, engine):
        yield address, engine


@pytest.fixture(scope="module")
def client(server):
    return client_of(server[0])


def refused(call, kind=openai.BadRequestError):
    """The error that a call gets."""
    with pytest.raises(kind) as caught:
        call()
    return caught.value


# Texts


@pytest.mark.compiled
def test_completions_are_what_generate_gives(lm, client):
    found = client.completions.create(model=NAME, prompt=TEXTS, max_tokens=32)
    assert [choice.text for choice in found.choices] == lm.generate(TEXTS, **LENGTH)
    assert {choice.finish_reason for choice in found.choices} == {"stop"}
    assert found.usage.completion_tokens > 3 and found.usage.prompt_tokens > 20
    short = client.completions.create(model=NAME, prompt=TEXTS[0], max_tokens=2).choices[0]
    assert short.finish_reason == "length" and lm.generate(TEXTS[0]).startswith(short.text)


@pytest.mark.once
def test_a_stream_is_the_same_text_in_pieces(lm, client):
    options = {"model": NAME, "max_tokens": 32, "stream": True}
    usage = {"stream_options": {"include_usage": True}}
    events = list(client.completions.create(prompt=TEXTS, **options, **usage))
    texts, ends = [""] * len(TEXTS), []
    for event in events[:-1]:
        for choice in event.choices:
            texts[choice.index] += choice.text
            ends += [choice.finish_reason] if choice.finish_reason else []
    assert texts == lm.generate(TEXTS, **LENGTH) and ends == ["stop"] * 3
    assert events[-1].usage.completion_tokens > 3 and events[-1].choices == []


@pytest.mark.once
def test_chat(lm, client):
    want = lm.chat(USER, max_new_tokens=8, verbose=0)
    found = client.chat.completions.create(model=NAME, messages=USER, max_completion_tokens=8)
    assert found.choices[0].message.content == want
    parts = [{"role": "user", "content": [{"type": "text", "text": TEXTS[0]}]}]
    options = {"model": NAME, "max_tokens": 8}
    pieces = client.chat.completions.create(messages=parts, stream=True, **options)
    pieces = list(pieces)
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == want
    assert pieces[-1].choices[0].finish_reason in ("stop", "length")


@pytest.mark.once
def test_settings_and_seeds(lm, client):
    settings = {"temperature": 1.2, "top_p": 0.9, "seed": 3}
    found = client.completions.create(
        model=NAME,
        prompt=TEXTS[:2],
        max_tokens=24,
        n=3,
        **settings,
        stop=["dr", "2"],
        extra_body={"top_k": 40, "repetition_penalty": 1.1},
    )
    want = lm.generate(
        TEXTS[:2],
        max_new_tokens=24,
        num_return_sequences=3,
        stop=["dr", "2"],
        top_k=40,
        repetition_penalty=1.1,
        **settings,
    )
    assert [choice.text for choice in found.choices] == want


@pytest.mark.once
def test_json_schema(lm, client):
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    options = {"model": NAME, "max_tokens": 16, "response_format": form}
    found = client.chat.completions.create(messages=USER, **options).choices[0].message.content
    constraint = constraints.json_schema(SCHEMA)
    assert found == lm.chat(USER, max_new_tokens=16, constraint=constraint, verbose=0)
    assert list(json.loads(found)) == ["n"]


@pytest.mark.once
def test_a_schema_that_refers_to_itself(lm, client, monkeypatch):
    tree = {"type": "object", "properties": {"t": {"$ref": "#/$defs/t"}}, "required": []}
    schema = {"$ref": "#/$defs/t", "$defs": {"t": tree}}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    options = {"model": NAME, "max_tokens": 16, "response_format": form}
    found = client.chat.completions.create(messages=USER, **options).choices[0].message.content
    constraint = constraints.json_schema(schema)
    assert found == lm.chat(USER, max_new_tokens=16, constraint=constraint, verbose=0)
    assert found.startswith("{")
    monkeypatch.setitem(sys.modules, "llguidance", None)
    error = refused(lambda: client.chat.completions.create(messages=USER, **options))
    assert error.param == "response_format"
    assert "pip install 'keras-t5gemma2[grammar]'" in error.message


@pytest.mark.once
def test_log_probabilities(lm, client):
    want = lm.generate(TEXTS[0], return_scores=True, **LENGTH)
    options = {"model": NAME, "max_tokens": 32}
    found = client.completions.create(prompt=TEXTS[0], logprobs=2, **options).choices[0].logprobs
    np.testing.assert_allclose(found.token_logprobs, want.log_probs, atol=1e-4)
    assert all(len(top) == 2 for top in found.top_logprobs)
    want = lm.chat(USER, max_new_tokens=4, return_scores=True, verbose=0)
    options = {"model": NAME, "max_tokens": 4, "messages": USER, "logprobs": True}
    found = client.chat.completions.create(**options, top_logprobs=3).choices[0].logprobs.content
    np.testing.assert_allclose([token.logprob for token in found], want.log_probs, atol=1e-4)
    assert [len(token.top_logprobs) for token in found] == [3] * len(found)
    assert all(token.top_logprobs[0].logprob >= token.logprob - 1e-6 for token in found)
    pieces = client.chat.completions.create(**options, stream=True)
    streamed = [t for p in pieces for t in (p.choices[0].logprobs.content or [])]
    assert [token.token for token in streamed] == [token.token for token in found]


@pytest.mark.once
def test_images(lm, client):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), "uint8"))
    file = io.BytesIO()
    picture.save(file, "png")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    question = "Which number is this?"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    found = client.chat.completions.create(
        model=NAME, messages=[{"role": "user", "content": parts}], max_tokens=8
    )
    own = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    want = lm.chat([{"role": "user", "content": own}], max_new_tokens=8, verbose=0)
    assert found.choices[0].message.content == want
    prompt = f"<start_of_image>{question}"
    found = client.completions.create(
        model=NAME, prompt=prompt, max_tokens=8, extra_body={"images": [url]}
    )
    row = {"encoder_text": prompt, "images": [picture]}
    assert found.choices[0].text == lm.generate(row, max_new_tokens=8, verbose=0)


# Vectors


@pytest.mark.once
def test_embeddings(lm, client):
    embedder = keras_t5gemma2.T5Gemma2TextEmbedder(lm.backbone, lm.preprocessor)
    found = client.embeddings.create(model=NAME, input=TEXTS, dimensions=32)
    want = embedder.encode_text(TEXTS, dimensions=32)
    np.testing.assert_allclose([row.embedding for row in found.data], want, atol=1e-6)
    other = client.embeddings.create(model=NAME, input=TEXTS[0], encoding_format="float")
    np.testing.assert_allclose(
        other.data[0].embedding, embedder.encode_text(TEXTS[0])[0], atol=1e-6
    )


@pytest.mark.once
def test_attention(lm, client):
    body = {"model": NAME, "prompt": TEXTS[2], "text": "zweiundvierzig"}
    found = client.post("/attention", body=body, cast_to=object)
    want = lm.attention(TEXTS[2], "zweiundvierzig")
    assert found["tokens"] == list(want.tokens)
    assert found["encoder_tokens"] == list(want.encoder_tokens)
    np.testing.assert_allclose(found["weights"], want.encoder.mean(axis=(0, 1)), atol=1e-4)
    for name, value in (("text", "a " * 100), ("prompt", "a " * 100), ("text", 3)):
        wrong = {**body, name: value}
        error = refused(lambda body=wrong: client.post("/attention", body=body, cast_to=object))
        assert error.param == name, error.message
    assert (
        "`prompt` must be a string. Received: prompt=None"
        in refused(lambda: client.post("/attention", body={"text": "a"}, cast_to=object)).message
    )


@pytest.mark.once
def test_tokens_of_images_count(lm, client):
    """A text that would be cut for its images is refused, as one that is too long by itself."""
    tokenizer, room = lm.preprocessor.tokenizer, lm.preprocessor.encoder_sequence_length
    text = "<start_of_image>" + "a" * (room - 4)
    while len(tokenizer.tokenize(text)) + 1 > room:
        text = text[:-1]
    body = {"model": NAME, "prompt": text, "images": [BLACK], "text": "a"}
    error = refused(lambda: client.post("/attention", body=body, cast_to=object))
    assert (error.param, error.code) == ("prompt", "context_length_exceeded")


@pytest.mark.once
def test_the_prompt_of_an_embedding_counts(client):
    plain = client.embeddings.create(model=NAME, input="Spell 7.")
    options = {"model": NAME, "input": "Spell 7.", "extra_body": {"prompt": "find: "}}
    found = client.embeddings.create(**options)
    assert found.usage.prompt_tokens > plain.usage.prompt_tokens
    options["extra_body"] = {"prompt": "find " * 70}
    error = refused(lambda: client.embeddings.create(**options))
    assert (error.param, error.code) == ("input", "context_length_exceeded")


@pytest.mark.once
def test_a_stream_is_measured_to_its_end(lm, monkeypatch):
    name = 't5gemma2_request_seconds_%s{path="/v1/completions"}'
    is_let, of_all = threading.Event(), app._Events._all

    async def held(first, rest):
        async for event in of_all(first, rest):
            yield event
            await asyncio.to_thread(is_let.wait, 20)  # behind the first event

    monkeypatch.setattr(app._Events, "_all", staticmethod(held))
    with served(lm) as (address, _):

        def measured(what):
            headers = {"Authorization": f"Bearer {KEY}"}
            lines = httpx.get(f"{address}/metrics", headers=headers).text.splitlines()
            return sum(float(x.split()[-1]) for x in lines if x.startswith(name % what))

        options = {"model": NAME, "prompt": TEXTS[0], "max_tokens": 4}
        stream = client_of(address).completions.create(**options, stream=True)
        try:
            next(iter(stream))
            time.sleep(0.5)
            assert measured("count") == 0
        finally:
            is_let.set()
        list(stream)
        end = time.monotonic() + 20
        while measured("count") == 0 and time.monotonic() < end:
            time.sleep(0.02)
        assert measured("count") == 1 and measured("sum") > 0.5


# The rest


@pytest.mark.once
def test_models_health_metrics_and_the_page(server, client):
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
    assert httpx.get(f"{server[0]}/health").json() == {"status": "ok"}
    assert f"<title>{NAME}" in httpx.get(server[0]).text
    page = httpx.get(server[0])
    assert "default-src 'none'" in page.headers["content-security-policy"]
    headers = {"Authorization": f"Bearer {KEY}"}
    metrics = httpx.get(f"{server[0]}/metrics", headers=headers).text
    assert 't5gemma2_requests_total{code="200",path="/v1/completions"}' in metrics


@pytest.mark.once
@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "param", "message"),
    [
        ({"prompt": 3}, "prompt", "must be a string or a list of strings. Received: prompt=3"),
        ({"prompt": "a", "n": 0}, "n", "an integer of at least 1. Received: n=0"),
        ({"prompt": "a", "n": 7}, "n", "may ask for 6 texts"),
        ({"prompt": "a", "n": 2}, "n", "`n` above 1 needs a sampler that draws"),
        ({"prompt": "a", "n": 2, "temperature": 0}, "n", "Received: n=2"),
        ({"prompt": "a", "max_tokens": 49}, "max_tokens", "at most 48. Received: max_tokens=49"),
        ({"prompt": "a", "temperature": -1}, "temperature", "at least 0"),
        ({"prompt": "a", "temperature": "hot"}, "temperature", "a number. Received"),
        ({"prompt": "a", "top_p": 2.0}, "top_p", "above 0 and at most 1"),
        ({"prompt": "a", "stop": [""]}, "stop", "none of them empty"),
        ({"prompt": "a", "logprobs": 21}, "logprobs", "at most 20"),
        ({"prompt": "a", "presence_penalty": 1}, "presence_penalty", "not supported"),
        ({"prompt": "a", "topp": 1}, "topp", "There is no argument `topp`"),
        ({"prompt": "a " * 100}, "prompt", "must have at most 64 tokens"),
        ({"prompt": "a", "images": ["/etc/passwd"]}, "images", "no file and no address is read"),
        ({"prompt": "a", "images": ["file:///etc/passwd"]}, "images", "must be a data URL"),
        ({"prompt": "a", "images": ["http://a/b.png"]}, "images", "must be a data URL"),
        (
            {"prompt": "a", "images": ["data:image/png;base64,AAAA"]},
            "images",
            "An image cannot be read",
        ),
        ({"prompt": "<start_of_image>"}, "prompt", "image"),
        ({"prompt": "a", "response_format": {"type": "json_object"}}, "response_format", "schema"),
        ({"prompt": "a", "stream_options": {}, "stream": "yes"}, "stream", "true or false"),
    ],
)
def test_errors_name_the_argument(client, arguments, param, message):
    body = {"model": NAME, **arguments}
    error = refused(lambda: client.post("/completions", body=body, cast_to=object))
    assert error.param == param and message in error.message, error.message
    assert error.type == "invalid_request_error"


@pytest.mark.once
@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "image": "/a.png"}]}]},
            "messages[0].content",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": "/a.png"}]}
                ]
            },
            "messages[0].content",
        ),
        ({"messages": USER, "top_logprobs": 2}, "top_logprobs"),
        ({"messages": [*USER, *USER]}, "messages"),
        ({"messages": USER, "tools": [{}]}, "tools"),
    ],
)
def test_errors_of_chat(client, arguments, param):
    body = {"model": NAME, **arguments}
    error = refused(lambda: client.post("/chat/completions", body=body, cast_to=object))
    assert error.param == param, error.message


@pytest.mark.once
def test_other_errors(server, client):
    address = server[0]
    options = {"model": NAME, "prompt": "a"}
    error = refused(
        lambda: client.completions.create(model="gpt", prompt="a"), openai.NotFoundError
    )
    assert (error.param, error.code) == ("model", "model_not_found")
    stranger = client_of(address, "another")
    error = refused(lambda: stranger.completions.create(**options), openai.AuthenticationError)
    assert error.code == "invalid_api_key"
    error = refused(lambda: client.embeddings.create(model=NAME, input=["a"] * 5))
    assert error.param == "input"
    error = refused(lambda: client.embeddings.create(model=NAME, input="a", dimensions=4096))
    assert error.param == "dimensions"
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    post = lambda **given: httpx.post(  # noqa: E731
        f"{address}/v1/completions", **{"headers": headers, **given}
    )
    assert post(content=b"{").status_code == 400
    assert "must be JSON: NaN is no JSON" in post(content=b'{"prompt": NaN}').text
    assert post(content=b"[" * 100_000).status_code == 400
    assert post(content=b"1").json()["error"]["message"].startswith("The body must be")
    found = post(content=b" " * (2 << 20))
    assert (found.status_code, "A body may have 1048576 bytes" in found.text) == (413, True)
    chunks = lambda: iter([b" " * 65536] * 40)  # noqa: E731
    assert post(content=chunks()).status_code == 413  # without a content-length
    assert post(content=b"{}", headers={**headers, "Content-Type": "text/plain"}).status_code == 415
    found = post(content=b"{}", headers={**headers, "Host": "evil.example"})
    assert found.status_code == 421
    assert "The server has another name. Received: host 'evil.example'" in found.text
    found = httpx.get(f"{address}/v1/nothing", headers=headers)
    assert found.status_code == 404 and found.json()["error"]["type"] == "invalid_request_error"
    assert httpx.get(f"{address}/v1/completions", headers=headers).status_code == 405
    for path in ("/../pyproject.toml", "/static/app.py", "/%2e%2e/etc/passwd"):
        assert httpx.get(f"{address}{path}", headers=headers).status_code == 404


@pytest.mark.once
def test_health_is_that_of_the_thread_of_the_model(lm):
    with served(lm) as (address, engine):
        assert httpx.get(f"{address}/health").status_code == 200
        engine.close()
        found = httpx.get(f"{address}/health")
        assert (found.status_code, found.json()) == (503, {"status": "closing"})
        error = refused(
            lambda: client_of(address).embeddings.create(model=NAME, input="a"),
            openai.InternalServerError,
        )
        assert (error.status_code, "shutting down" in error.message) == (503, True)


@pytest.mark.once
def test_a_full_queue_and_too_little_time(lm):
    with served(lm, Limits(seconds=0.001), most_rows=1, most_waiting=2) as (address, _):
        client = client_of(address)
        options = {"model": NAME, "prompt": TEXTS[0], "max_tokens": 200}
        error = refused(
            lambda: client.completions.create(**options, n=4, temperature=1), openai.RateLimitError
        )
        assert error.code == "queue_full" and error.response.headers["retry-after"] == "1"
        error = refused(lambda: client.completions.create(**options), openai.InternalServerError)
        assert (error.status_code, error.code) == (504, "timeout")
        assert "The answer took too long, and was given up" in error.message


@pytest.mark.once
def test_a_fault_of_the_server_tells_nothing_of_it(lm, monkeypatch):
    monkeypatch.setattr(app.replies.Replies, "whole", lambda *arguments: {}["/a/secret"])
    with served(lm) as (address, _):
        error = refused(
            lambda: client_of(address).completions.create(model=NAME, prompt="a", max_tokens=1),
            openai.InternalServerError,
        )
    assert "The server has a fault, which its log tells" in error.message
    assert "secret" not in error.message


@pytest.mark.once
def test_a_client_that_goes_frees_its_row(server, client):
    engine = server[1]
    options = {"model": NAME, "max_tokens": 48, "temperature": 5.0}
    before = engine.counts["tokens"]
    stream = client.completions.create(prompt=TEXTS[0], stream=True, n=6, **options)
    next(iter(stream))
    stream.close()
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.001).completions.create(prompt=TEXTS[1], n=6, **options)
    client.completions.create(model=NAME, prompt=TEXTS[2])
    assert math.isclose(engine.running + engine.waiting, 0)
    assert engine.counts["tokens"] - before <= 13 * 48


@pytest.mark.once
def test_many_clients_at_once(lm, client):
    prompts = [f"Spell {n} in German." for n in range(40)]

    def ask(prompt):
        return client.completions.create(model=NAME, prompt=prompt, max_tokens=32).choices[0].text

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, prompts)) == lm.generate(prompts, **LENGTH)
