"""Bodies of requests as OpenAI's clients write them, checked. Long: each argument has its rule."""

import dataclasses
from typing import Any

from keras_t5gemma2.constraints import json_schema
from keras_t5gemma2.generation.settings import OF_ROWS
from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import integer, number
from keras_t5gemma2.serving.batch_programs import MOST_ALTERNATIVES
from keras_t5gemma2.serving.errors import RequestError
from keras_t5gemma2.serving.images import image_of

# All endpoints of texts have these, the numbers under the names of `generate`.
_OF_ALL = (
    *("model", "max_tokens", "n", "seed", "stop", "stream", "stream_options", "logprobs"),
    *("response_format", *OF_ROWS),
)
COMPLETION = ("prompt", "images", "decoder_text", *_OF_ALL)
CHAT = ("messages", "max_completion_tokens", "top_logprobs", *_OF_ALL)
ATTENTION = ("model", "prompt", "images", "text")
EMBEDDING = ("model", "input", "encoding_format", "dimensions", "prompt")
# What is read and changes nothing.
_WITHOUT_EFFECT = ("user", "metadata", "safety_identifier", "prompt_cache_key", "store")
# What may be said as long as it asks for nothing.
_NEUTRAL = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "parallel_tool_calls": (True, False),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
}
_INSTEAD = {
    "frequency_penalty": "Give `repetition_penalty`",
    "presence_penalty": "Give `repetition_penalty`",
    "best_of": "Give `n`",
}


@dataclasses.dataclass
class Asked:
    """What a request for texts asks.

    Attributes:
        inputs: list of what `generate` takes for one row.
        count: int, texts of each row.
        max_new_tokens: int or `None`.
        settings: dict of settings of `generate`.
        alternatives: int, likeliest tokens beside each new one, or `None` for no probabilities.
        streams: bool.
        has_usage: bool. Whether a stream ends with how many tokens there were.
    """

    inputs: list[Any]
    count: int
    max_new_tokens: int | None
    settings: dict[str, Any]
    alternatives: int | None
    streams: bool
    has_usage: bool


def completion_of(body, limits):
    """The `Asked` of a body of /v1/completions.

    Args:
        body: dict of JSON.
        limits: `Limits`.

    Raises:
        RequestError: it names the argument that is not possible.

    Example:

    >>> from keras_t5gemma2.serving.limits import Limits
    >>> asked = completion_of({"prompt": ["a", "b"], "max_tokens": 8, "top_p": 0.5}, Limits())
    >>> asked.inputs, asked.max_new_tokens, asked.settings
    ([{'encoder_text': 'a'}, {'encoder_text': 'b'}], 8, {'top_p': 0.5})
    """
    body = _known(body, COMPLETION)
    prompts = _texts(body, "prompt")
    inputs = [{"encoder_text": text} for text in prompts]
    if body.get("images"):
        if len(prompts) != 1:
            raise _wrong("images", "a list of data URLs, beside one prompt", body)
        inputs[0]["images"] = _images(body, limits)
    if body.get("decoder_text") is not None:
        if not isinstance(body["decoder_text"], str):
            raise _wrong("decoder_text", "a string, what each text begins with", body)
        inputs = [{**row, "decoder_text": body["decoder_text"]} for row in inputs]
    alternatives = _integer(body, "logprobs", 0, MOST_ALTERNATIVES)
    return _asked(body, inputs, alternatives, _integer(body, "max_tokens", 1), limits)


def chat_of(body, limits):
    """The `Asked` of a body of /v1/chat/completions; as `completion_of`.

    Example:

    >>> from keras_t5gemma2.serving.limits import Limits
    >>> asked = chat_of({"messages": [{"role": "user", "content": "Hello!"}]}, Limits())
    >>> asked.inputs
    [{'messages': [{'role': 'user', 'content': 'Hello!'}]}]
    """
    body = _known(body, CHAT)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "a list of messages", body)
    messages = [_message(message, n, limits) for n, message in enumerate(messages)]
    parts = [m["content"] for m in messages if isinstance(m["content"], list)]
    images = sum(part["type"] == "image" for of_one in parts for part in of_one)
    _check_count(images, limits, "messages")
    name = "max_completion_tokens" if body.get("max_completion_tokens") else "max_tokens"
    wants = _flag(body, "logprobs")
    alternatives = _integer(body, "top_logprobs", 0, MOST_ALTERNATIVES)
    if alternatives is not None and not wants:
        raise RequestError(
            400, "`top_logprobs` needs `logprobs`. Received: logprobs=false", "top_logprobs"
        )
    alternatives = (alternatives or 0) if wants else None
    inputs = [{"messages": messages}]
    return _asked(body, inputs, alternatives, _integer(body, name, 1), limits, name)


def embedding_of(body, limits):
    """The texts, how vectors are written, their dimensions, and the name of a prompt.

    Example:

    >>> from keras_t5gemma2.serving.limits import Limits
    >>> embedding_of({"input": "Hello!"}, Limits())
    (['Hello!'], 'float', None, None)
    """
    body = _known(body, EMBEDDING)
    texts = _texts(body, "input")
    if len(texts) > limits.inputs:
        raise RequestError(
            400, f"`input` may have {limits.inputs} texts. Received: {len(texts)} texts", "input"
        )
    form = body.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise _wrong("encoding_format", '"float" or "base64"', body)
    prompt = body.get("prompt")
    if prompt is not None and not isinstance(prompt, str):
        raise _wrong("prompt", "a string", body)
    return texts, form, _integer(body, "dimensions", 1), prompt


def attention_of(body, limits):
    """The row of a body of /v1/attention, and the text of the model.

    Example:

    >>> from keras_t5gemma2.serving.limits import Limits
    >>> attention_of({"prompt": "Spell 7 in Dutch.", "text": "zeven"}, Limits())
    ({'encoder_text': 'Spell 7 in Dutch.'}, 'zeven')
    """
    body = _known(body, ATTENTION)
    for name in ("prompt", "text"):
        if not isinstance(body.get(name), str):
            raise _wrong(name, "a string", body)
    row = {"encoder_text": body["prompt"]}
    if body.get("images"):
        row["images"] = _images(body, limits)
    return row, body["text"]


# Parts -------------------------------------------------------------------------------------------


def _asked(body, inputs, alternatives, tokens, limits, of_tokens="max_tokens"):
    count = _integer(body, "n", 1) or 1
    if count * len(inputs) > limits.texts:
        raise RequestError(
            400,
            f"A request may ask for {limits.texts} texts. Received: {len(inputs)} prompts, n="
            f"{count}",
            "n" if count > 1 else "prompt",
        )
    if tokens is not None and tokens > limits.max_tokens:
        raise RequestError(
            400,
            f"`{of_tokens}` must be at most {limits.max_tokens}. Received: {of_tokens}={tokens}",
            of_tokens,
        )
    settings = {name: _number(body, name) for name in OF_ROWS if body.get(name) is not None}
    if (seed := _integer(body, "seed")) is not None:
        settings["seed"] = seed % (1 << 63)
    if body.get("stop"):
        settings["stop"] = _stop(body)
    constraint = _constraint(body)
    if constraint is not None:
        settings["constraint"] = constraint
    options = body.get("stream_options") or {}
    if not isinstance(options, dict) or (options and not body.get("stream")):
        raise _wrong("stream_options", "an object, beside stream=true", body)
    has_usage = _flag(options, "include_usage")
    streams = _flag(body, "stream")
    return Asked(inputs, count, tokens, settings, alternatives, streams, has_usage)


def _images(body, limits):
    if not isinstance(body["images"], list):
        raise _wrong("images", "a list of data URLs", body)
    _check_count(len(body["images"]), limits, "images")
    return [image_of(url, "images", limits.image_pixels) for url in body["images"]]


def _message(message, number, limits):
    if not isinstance(message, dict):
        raise RequestError(
            400, f"A message must be an object. Received: {shown(message)}", f"messages[{number}]"
        )
    param = f"messages[{number}]"
    role, content = message.get("role"), message.get("content")
    role = "system" if role == "developer" else role
    if role not in ("system", "user", "assistant"):
        raise RequestError(
            400,
            "`role` of a message must be system, developer, user or assistant. Received: role="
            f"{shown(role)}",
            f"{param}.role",
        )
    if isinstance(content, str):
        return {"role": role, "content": content}
    if not isinstance(content, list) or not content:
        raise RequestError(
            400,
            f"`content` of a message must be a string or a list of parts. Received: content="
            f"{shown(content)}",
            f"{param}.content",
        )
    return {"role": role, "content": [_part(part, f"{param}.content", limits) for part in content]}


def _part(part, param, limits):
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "image_url":
        url = part.get("image_url")
        url = url.get("url") if isinstance(url, dict) else url
        return {"type": "image", "image": image_of(url, param, limits.image_pixels)}
    raise RequestError(
        400,
        'A part of a message must be {"type": "text", "text": ...} or {"type": "image_url", '
        f'"image_url": {{"url": ...}}}}. Received: {shown(part)}',
        param,
    )


def _constraint(body):
    form = body.get("response_format")
    if form is None or form == {"type": "text"}:
        return None
    found = form.get("json_schema") if isinstance(form, dict) else None
    if not isinstance(found, dict) or not isinstance(found.get("schema"), dict):
        raise RequestError(
            400,
            '`response_format` must be {"type": "text"}, or {"type": "json_schema", '
            f'"json_schema": {{"schema": ...}}}}. Received: response_format={shown(form)}',
            "response_format",
        )
    try:
        return json_schema(found["schema"])
    except (ValueError, TypeError, RecursionError) as error:
        raise RequestError(400, str(error), "response_format") from error
    except ImportError as error:
        # Of a schema that refers to itself; the server's owner can mend it.
        raise RequestError(
            400,
            f"{error}. Received: a `response_format` that the server cannot follow without",
            "response_format",
        ) from error


def _texts(body, name):
    texts = body.get(name)
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(x, str) for x in texts):
        raise _wrong(name, "a string or a list of strings", body)
    return texts


def _stop(body):
    value = body["stop"]
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(x, str) and x for x in values):
        raise _wrong("stop", "a string or a list of strings, none of them empty", body)
    if len(values) > 16:
        raise _wrong("stop", "at most 16 strings", body)
    return values


def _known(body, names):
    """The body without what asks for nothing.

    Raises:
        RequestError: an argument is unknown, or asks for what there is not.
    """
    if not isinstance(body, dict):
        raise RequestError(400, f"The body must be a JSON object. Received: {shown(body)}")
    found = {}
    for name, value in body.items():
        if name in names:
            found[name] = value
        elif name in _NEUTRAL:
            if value is not None and value not in _NEUTRAL[name]:
                if name == "best_of" and value == body.get("n"):
                    continue
                raise RequestError(
                    400,
                    f"`{name}` is not supported. Received: {name}={shown(value)}. "
                    f"{_INSTEAD.get(name, 'Leave it out')}",
                    name,
                    "unsupported_parameter",
                )
        elif name not in _WITHOUT_EFFECT:
            raise RequestError(
                400, f"There is no argument `{name}` here. Leave it out", name, "unknown_parameter"
            )
    return found


def _check_count(count, limits, param):
    if count > limits.images:
        raise RequestError(
            400, f"A request may have {limits.images} images. Received: {count} images", param
        )


def _integer(body, name, least=None, most=None):
    value = body.get(name)
    if value is None:
        return None
    found = None if isinstance(value, bool) else integer(value)
    if found is None or (least is not None and found < least):
        rule = "an integer" if least is None else f"an integer of at least {least}"
        raise _wrong(name, rule, body)
    if most is not None and found > most:
        raise _wrong(name, f"an integer of at most {most}", body)
    return found


def _number(body, name):
    value = body[name]
    if isinstance(value, bool) or number(value) is None:
        raise _wrong(name, "a number", body)
    return value


def _flag(body, name):
    value = body.get(name)
    if value not in (None, True, False) or isinstance(value, (int, float)) != isinstance(
        value, bool
    ):
        raise _wrong(name, "true or false", body)
    return bool(value)


def _wrong(name, rule, body):
    return RequestError(
        400, f"`{name}` must be {rule}. Received: {name}={shown(body.get(name))}", name
    )
