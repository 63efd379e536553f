"""Chat templates: the text of a dialogue, as a Jinja template writes it.

A template comes with a checkpoint, and is run in Jinja's sandbox with the names that the reference
gives it. Where a checkpoint has none, the form of Gemma's turns is used, which stands below.
"""

import contextlib
import datetime
import functools
import json
from typing import NamedTuple

from keras_t5gemma2.messages import cause, shown
from keras_t5gemma2.preprocessing.dialogues import Dialogue
from keras_t5gemma2.vocabulary.marked_text import ids_of_marked, mark_for, marked, unmarked

_MOST_CHARACTERS = 1_000_000

# Turns as Gemma 3 has them: what the system says is put before the first words of the user.
GEMMA_TEMPLATE = """\
{%- set has_system = messages[0]["role"] == "system" -%}
{%- set system = messages[0]["content"] if has_system else "" -%}
{%- set system = system if system is string else system[0]["text"] -%}
{%- set ask_first = "Conversation roles must alternate user/assistant/user/assistant/..." -%}
{{ bos_token }}
{%- for message in (messages[1:] if has_system else messages) -%}
    {%- set is_users_turn = loop.index0 is even -%}
    {%- if is_users_turn != (message["role"] == "user") -%}
        {{ raise_exception(ask_first) }}
    {%- endif -%}
    {%- set role = "model" if message["role"] == "assistant" else message["role"] -%}
    {{ "<start_of_turn>" ~ role ~ "\\n" }}
    {%- if loop.first and has_system -%}
        {{ system ~ "\\n\\n" }}
    {%- endif -%}
    {%- if message["content"] is string -%}
        {{ message["content"] | trim }}
    {%- elif message["content"] is iterable -%}
        {%- for part in message["content"] -%}
            {{ "<start_of_image>" if part["type"] == "image" else part["text"] | trim }}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ "<end_of_turn>\\n" }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ "<start_of_turn>model\\n" }}
{%- endif -%}
"""
# As Gemma 2 has it, where nobody speaks as the system.
_NO_SYSTEM = """\
{%- if messages[0]["role"] == "system" -%}
    {{ raise_exception("System role not supported") }}
{%- endif -%}
"""
# What a checkpoint without a template is given, by its generation.
DEFAULT_TEMPLATES = {1: _NO_SYSTEM + GEMMA_TEMPLATE, 2: GEMMA_TEMPLATE}


def check_template(template):
    """Raises a `ValueError` or a `TypeError` if `template` is no chat template."""
    if not isinstance(template, str):
        raise TypeError(
            "`chat_template` must be a string, the text of a Jinja template, or `None`. Received: "
            f"{shown(template)} (type {type(template)})"
        )
    if len(template) > _MOST_CHARACTERS:
        raise ValueError(
            f"`chat_template` must have at most {_MOST_CHARACTERS} characters. Received: "
            f"{len(template)}"
        )
    _compiled(template)


def render(template, messages, tokens, add_generation_prompt, variables=None):
    """The text of messages.

    Args:
        template: string.
        messages: list of dicts of `role` and `content`.
        tokens: dict of the special tokens by name, such as `bos_token`.
        add_generation_prompt: bool. Whether the model's turn is opened at the end.
        variables: dict of further variables that the template may read, or `None`.

    Raises:
        ValueError: the template raises an error, as where roles do not alternate.
    """
    known = {"tools": None, "documents": None, **tokens, **(variables or {})}
    compiled = _compiled(template)
    try:
        return compiled.render(
            messages=_plain(messages), add_generation_prompt=add_generation_prompt, **_plain(known)
        )
    except Exception as error:  # a template may do anything in its sandbox
        roles = [message.get("role") for message in messages]
        raise ValueError(
            f"The chat template refuses the messages: {cause(error, 500)}. Received: "
            f"{len(messages)} messages of the roles {shown(roles)}"
        ) from error


def rows_as_text(rows, template, tokenizer):
    """Rows of dialogues as rows of text: what the encoder reads, and what the decoder is to write.

    Args:
        rows: list of `Row`. Those that are of text stay as they are.
        template: string.
        tokenizer: `T5Gemma2Tokenizer`.

    Raises:
        ValueError: the template refuses the messages of a row, or cannot be learned from.
    """
    tokens = tokens_of(tokenizer)
    control_tokens = tokenizer.loaded_vocabulary().control_tokens
    found = []
    for row in rows:
        if isinstance(row.encoder_text, Dialogue):
            messages, answer = row.encoder_text.messages, row.decoder_text
            is_target = isinstance(answer, dict)
            mark = mark_for(json.dumps([messages, answer], default=str, ensure_ascii=False))
            marked_messages = _marked(messages, control_tokens, mark)
            with naming_row(row.number):
                prompt = render(template, marked_messages, tokens, True)
                if is_target:
                    whole = [*marked_messages, _marked(answer, control_tokens, mark)]
                    answer = _behind(prompt, render(template, whole, tokens, False), mark)
            row = row._replace(encoder_text=prompt, decoder_text=answer, mark=mark)
        found.append(row)
    return found


def text_of_messages(messages, template, tokenizer, add_generation_prompt, variables):
    """The text that a template writes of messages; arguments as of `ids_of_messages`."""
    return render(template, messages, tokens_of(tokenizer), add_generation_prompt, variables)


def ids_of_messages(messages, template, tokenizer, add_generation_prompt, variables):
    """The ids of what `render` writes; what is spelled like a control token in messages is text."""
    vocabulary = tokenizer.loaded_vocabulary()
    mark = mark_for(json.dumps(messages, default=str, ensure_ascii=False))
    marked_messages = _marked(messages, vocabulary.control_tokens, mark)
    known = tokens_of(tokenizer)
    text = render(template, marked_messages, known, add_generation_prompt, variables)
    return ids_of_marked(vocabulary, text, mark)


def tokens_of(tokenizer):
    """The special tokens that a template may write, by the reference's names."""
    names = {"bos": "start", "eos": "end", "pad": "pad"}
    images = {"boi": "start_of_image", "eoi": "end_of_image", "image": "image"}
    found = {f"{name}_token": getattr(tokenizer, f"{our}_token") for name, our in names.items()}
    for name, our in images.items():
        if getattr(tokenizer, f"{our}_token_id") is not None:
            found[f"{name}_token"] = getattr(tokenizer, f"{our}_token")
    return {**found, "unk_token": tokenizer.unk_token}


@contextlib.contextmanager
def naming_row(number):
    """Says of an error of which row it is."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"In row {number}: {cause(error, 1500)}") from error


class TurnEnd(NamedTuple):
    """Where the model's turn ends: a string, "" for nothing, and the ids that end its text."""

    text: str
    stop_token_ids: tuple


def turn_end(preprocessor):
    """The `TurnEnd` of the template that a preprocessor uses: "<end_of_turn>" of Gemma's."""
    tokenizer = preprocessor.tokenizer
    text = end_of_turn(preprocessor.template_in_use(), tokenizer)
    ids = tokenizer.tokenize(text) if text else []
    return TurnEnd(text, (*(ids if len(ids) == 1 else ()), tokenizer.end_token_id))


def end_of_turn(template, tokenizer):
    """What a template writes behind the model's words, or "" for nothing."""
    return _end_of_turn(template, tuple(tokens_of(tokenizer).items()))


@functools.lru_cache(maxsize=16)
def _end_of_turn(template, tokens):
    answer = mark_for(template)  # which the template does not write itself
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}]
    _, mark, end = render(template, messages, dict(tokens), False).rpartition(answer)
    return end.strip() if mark else ""  # without a mark, it writes no answers


def _behind(prompt, whole, mark):
    """What the model is to write: its words and the end of its turn."""
    if not whole.startswith(prompt):
        asks, answers = (shown(unmarked(text, mark)[-60:]) for text in (prompt, whole))
        raise ValueError(
            "A chat template to learn from must write an answer behind that with which it asks for "
            f"one. Received one that asks with {asks} and answers with {answers}. Give another "
            "`chat_template`"
        )
    return whole[len(prompt) :].rstrip()


def _marked(value, control_tokens, mark):
    """Messages with every string in them marked, keys left out."""
    if isinstance(value, str):
        return marked(value, control_tokens, mark)
    if isinstance(value, dict):
        return {key: _marked(item, control_tokens, mark) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_marked(item, control_tokens, mark) for item in value]
    return value


def _plain(value):
    """What JSON has, and the names of the types of all else: an object might do harm if called."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or type(value) in (str, int, float, bool):
        return value
    return str.__str__(value) if isinstance(value, str) else f"<{type(value).__name__}>"


@functools.lru_cache(maxsize=32)
def _compiled(template):
    import jinja2

    try:
        return _environment().from_string(template)
    except (jinja2.TemplateError, RecursionError) as error:
        raise ValueError(
            f"`chat_template` must be a Jinja template: {cause(error)}. Received: {shown(template)}"
        ) from error


@functools.cache
def _environment():
    """The reference's: what templates are written for."""
    import jinja2
    import jinja2.ext
    import jinja2.nodes
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """The block that marks what the model has written; here it is like any other text."""

        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    options = {"trim_blocks": True, "lstrip_blocks": True}
    extensions = [Generation, jinja2.ext.loopcontrols]
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(extensions=extensions, **options)
    # Jinja's own would write "&" and "<" as HTML has them.
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    options = {"indent": indent, "separators": separators, "sort_keys": sort_keys}
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)
