"""`t5gemma2 chat`."""

import click

from t5gemma2_cli import options
from t5gemma2_cli.running import call


@click.command(short_help="Answer messages, line by line.")
@options.preset
@click.option("--system", help="What the model is told before the first message.")
@options.drawing
@options.seed
@options.max_new_tokens
@options.model
@options.adapter
@options.as_json
@options.quiet
@options.backend
def chat(backend, **chosen):
    """Talk with the model PRESET: each line of stdin is a message, and gets its answer.

    The model sees the dialogue so far. Ctrl-D ends it, and so does Ctrl-C. On a terminal the line
    /new begins another dialogue, and "/image PATH" adds an image to the next message. The
    published weights are not tuned on dialogues; t5gemma2 finetune does that.

    \b
    t5gemma2 chat PRESET --system "Answer in one sentence." --temperature 0.7
    printf 'Hello!\\nAnd in Dutch?\\n' | t5gemma2 chat PRESET
    echo '{"content": "Hello!"}' | t5gemma2 chat PRESET --json

    With --json an answer is a line of JSON with its index, role and content. A line of stdin may
    then be JSON, too: a string, a message with its content as lm.chat takes it, or a list of
    messages, which begins another dialogue. Any other line is the text of a message.
    """
    call("chat", backend, **chosen)
