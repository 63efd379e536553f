"""Dialogues: lists of messages as others have them, checked, and the rows that they are."""

import collections.abc
from typing import Any, NamedTuple

from keras_t5gemma2.messages import shown, warn
from keras_t5gemma2.preprocessing.columns import DIALOGUE_KEYS
from keras_t5gemma2.preprocessing.containers import (
    images_of,
    is_missing,
    is_sequence,
    items_of,
    texts_of,
)

MODEL_ROLES = ("assistant", "model")
_USER = "user"
# Where a part of a message has its image, as several libraries write it.
_IMAGE_KEYS = ("image", "url", "path", "base64", "image_url")
_FORM = (
    'a message must be a dict such as {"role": "user", "content": "Spell 42."}, whose content is a '
    'string or a list of {"type": "text", "text": ...} and {"type": "image", "image": ...}'
)


class Dialogue(NamedTuple):
    """Messages in the one form that templates know, and the images of their parts, in order.

    What has no text yet stands in the place of a row's `encoder_text`: a template makes it.
    """

    messages: list[dict[str, Any]]
    images: list[Any]  # `None` for a part that says only that there is one

    def length(self):
        """Characters, about as many as the text will have."""
        return sum(len(text_of(message["content"])) for message in self.messages)


def is_message(x):
    """Whether `x` is one message."""
    if not isinstance(x, collections.abc.Mapping) or "role" not in x:
        return False
    return "content" in x or "tool_calls" in x


def is_dialogue(x):
    """Whether `x` is a list of messages."""
    return isinstance(x, (list, tuple)) and len(x) > 0 and all(map(is_message, x))


def are_dialogues(x):
    """Whether `x` is a dialogue or a list of some."""
    return is_dialogue(x) or (isinstance(x, list) and len(x) > 0 and all(map(is_dialogue, x)))


def dialogues_of(table, answers):
    """The dialogues of a table, with what is to be learned of each.

    Args:
        table: dict of `messages`, or of `prompt` and perhaps `completion`, and perhaps `images`.
        answers: bool. Whether each message of the model is to be learned; else the next message is
            to be written, and a `completion` is not read.

    Returns:
        A list of tuples of a `Dialogue`, the message to learn or `None`, and the number of the
        dialogue in the table; and whether the table holds one dialogue, which nothing is learned
        of.

    Raises:
        ValueError: the values are no dialogues, do not fit together, or cannot be learned.
    """
    names = [name for name in (*DIALOGUE_KEYS, "decoder_text") if table.get(name) is not None]
    if names not in (["messages"], ["prompt"], ["prompt", "completion"]):
        raise ValueError(
            "A dialogue must be given as `messages`, or as `prompt` and `completion`, and nothing "
            f"beside it, as its answers are a part of it. Received: {shown(names)}"
        )
    values = {name: _listed(table[name]) for name in names}
    first = values[names[0]]
    is_single = isinstance(first, str) or is_dialogue(first)
    images = table.get("images") if is_single else images_of(table.get("images"))
    if is_single:
        values, images = {name: [value] for name, value in values.items()}, [images]
        first = values[names[0]]
    values["images"] = [None] * len(first) if images is None else images
    counts = {name: len(value) for name, value in values.items()}
    if len(set(counts.values())) > 1 or not counts[names[0]]:
        raise ValueError(
            "All values of a batch must have as many rows, and at least one. Received, in rows: "
            f"{counts}"
        )
    if "completion" in values and not answers:
        warn("The `completion` of dialogues is not read here: the model is to write it")
    each = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    found = [part for n, one in enumerate(each) for part in _parts_of(one, names[0], answers, n)]
    return found, is_single and not answers


def _listed(value):
    """A string, a dialogue, or a list of either."""
    value = texts_of(value, "messages")
    return list(value) if isinstance(value, tuple) else value


def _parts_of(values, name, answers, number):
    """Tuples of a `Dialogue`, what is to be learned and the number, of one row of a table."""
    dialogue = dialogue_of(values[name], number)
    start = len(dialogue.messages) if "completion" in values else 0
    if answers and "completion" in values:
        answer = values["completion"]
        if isinstance(answer, str):
            answer = [{"role": MODEL_ROLES[0], "content": answer}]
        more = dialogue_of(answer, number)
        dialogue = Dialogue(dialogue.messages + more.messages, dialogue.images + more.images)
    dialogue = with_images(dialogue, values["images"], number)
    if answers:
        return [(*turn, number) for turn in turns_to_learn(dialogue, start, number)]
    if dialogue.messages[-1]["role"] in MODEL_ROLES:
        raise ValueError(
            "A dialogue that the model is to go on with must not end with a message of its own. "
            f"Received in row {number}: {len(dialogue.messages)} messages, the last of the role "
            f"{shown(dialogue.messages[-1]['role'])}"
        )
    return [(dialogue, None, number)]


def dialogue_of(messages, row=0):
    """The `Dialogue` of a list of messages; a string is one message of the user.

    Args:
        messages: list of dicts of `role` and `content`, or a string.
        row: int. The number of the row, for errors.

    Raises:
        ValueError: they are no messages, or there are none.
    """
    where = f"in row {row}"
    if isinstance(messages, str):
        messages = [{"role": _USER, "content": messages}]
    if hasattr(messages, "tolist"):
        messages = messages.tolist()
    elif is_sequence(messages):
        messages = items_of(messages)
    if not isinstance(messages, (list, tuple)) or len(messages) == 0:
        raise ValueError(
            f"A dialogue must be a list of messages: {_FORM}. Received {where}: {shown(messages)}"
        )
    images: list[Any] = []
    return Dialogue([_message(message, images, where) for message in messages], images)


def _message(message, images, where):
    """The message with plain parts; what images there are goes to the end of `images`."""
    if not is_message(message) or not isinstance(message["role"], str):
        raise ValueError(f"Of messages, {_FORM}. Received {where}: {shown(message)}")
    content = message.get("content")
    if hasattr(content, "tolist"):
        content = content.tolist()
    if isinstance(content, (list, tuple)):
        content = [_part(part, images, where) for part in content]
    elif not isinstance(content, str) and not (content is None and message.get("tool_calls")):
        raise ValueError(
            f"Of messages, {_FORM}. Received {where}: a message of the role "
            f"{shown(message['role'])} with content={shown(content)}"
        )
    return {**message, "content": content}


def _part(part, images, where):
    kind = part.get("type") if isinstance(part, collections.abc.Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind in ("image", "image_url"):
        images.append(_image_of(part))
        return {"type": "image"}
    raise ValueError(
        f"Of messages, {_FORM}; there are no other parts. Received {where}: {shown(part)}"
    )


def _image_of(part):
    """The image of a part, or `None` where it stands elsewhere."""
    key = next((key for key in _IMAGE_KEYS if not is_missing(part.get(key))), None)
    if key is None:
        return None
    image = part[key]
    if isinstance(image, collections.abc.Mapping) and "url" in image:
        return image["url"]
    return f"data:image;base64,{image}" if key == "base64" else image


def with_images(dialogue, images, row=0):
    """The dialogue with images in the places that its parts keep for them.

    Where no part has an image or keeps a place, they stand before the last message of the user.

    Args:
        dialogue: `Dialogue`.
        images: `None`, one image, or a list of images.
        row: int. The number of the row, for errors.

    Raises:
        ValueError: there are more or fewer images than places.
    """
    images = images_of(None if is_missing(images) else images)
    images = [] if images is None else images
    images = list(images) if isinstance(images, list) else [images]
    if images and not dialogue.images:
        dialogue = _with_places(dialogue, len(images))
    places = [place for place, image in enumerate(dialogue.images) if image is None]
    if len(places) != len(images):
        raise ValueError(
            "There must be an image for each part of a message that has none of its own. Received "
            f"in row {row}: {len(places)} such parts, and {len(images)} images beside the messages"
        )
    found = list(dialogue.images)
    for place, image in zip(places, images, strict=True):
        found[place] = image
    return dialogue._replace(images=found)


def _with_places(dialogue, count):
    messages = list(dialogue.messages)
    of_user = [n for n, message in enumerate(messages) if message["role"] == _USER]
    if not of_user:
        return dialogue
    message = messages[of_user[-1]]
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    places = [{"type": "image"}] * count
    messages[of_user[-1]] = {**message, "content": [*places, *parts]}
    return Dialogue(messages, [None] * count)


def turns_to_learn(dialogue, start=0, row=0):
    """For each of the model's messages, the `Dialogue` before it and its text.

    Args:
        dialogue: `Dialogue`.
        start: int. The first message that may be one to learn.
        row: int. The number of the row, for errors.

    Raises:
        ValueError: there is no message of the model, it is the first, or it has an image.
    """
    found = []
    for place, message in enumerate(dialogue.messages):
        if place < start or message["role"] not in MODEL_ROLES:
            continue
        content = message["content"]
        if place == 0 or not isinstance(content, (str, list)) or _count_images(content):
            raise ValueError(
                "What the model is to write must be text, and follow another message. Received in "
                f"row {row}: message {place} of the role {shown(message['role'])} with content="
                f"{shown(content)}"
            )
        count = sum(_count_images(m["content"]) for m in dialogue.messages[:place])
        before = Dialogue(dialogue.messages[:place], dialogue.images[:count])
        found.append((before, message))
    if not found:
        roles = [message["role"] for message in dialogue.messages[start:]]
        raise ValueError(
            "A dialogue to learn from must have a message of the role 'assistant'. Received in row "
            f"{row}: messages of the roles {shown(roles)}"
        )
    return found


def parts_of_text(text, marker):
    """The content of a message whose text has markers for images; `None` where it has no image."""
    if marker is None:
        return text
    first, *rest = text.split(marker)
    parts = [{"type": "text", "text": first}]
    for part in rest:
        parts += [{"type": "image"}, {"type": "text", "text": part}]
    return parts


def _count_images(content):
    return sum(part["type"] == "image" for part in content) if isinstance(content, list) else 0


def text_of(content):
    """The words of a message."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""
