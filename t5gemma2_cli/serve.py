"""`t5gemma2 serve`."""

import importlib.util

import click

from t5gemma2_cli import options
from t5gemma2_cli.running import call, needed_by


@click.command(short_help="Answer requests of OpenAI's clients.")
@options.preset
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes any."
)
@click.option(
    "--api-key",
    envvar="T5GEMMA2_API_KEY",
    help="What requests must know; by default T5GEMMA2_API_KEY, else nothing.",
)
@click.option(
    "--name", "model_name", help="What requests call the model; by default the end of PRESET."
)
@click.option(
    "--rows", type=click.IntRange(1), default=32, show_default=True, help="Texts written at a time."
)
@click.option(
    "--queue", type=click.IntRange(1), default=256, show_default=True, help="Texts that may wait."
)
@click.option(
    "--max-tokens", type=click.IntRange(1), default=1024, show_default=True, help="Of a text."
)
@click.option(
    "--max-texts", type=click.IntRange(1), default=16, show_default=True, help="Of a request."
)
@click.option(
    "--max-images", type=click.IntRange(1), default=8, show_default=True, help="Of a request."
)
@click.option(
    "--max-body", type=click.IntRange(1), default=20, show_default=True, help="Mebibytes of a body."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=300,
    show_default=True,
    help="Seconds of a request.",
)
@options.model
@options.adapter
@options.quiet
@options.backend
def serve(backend, **chosen):
    """Answer requests with the model PRESET, as OpenAI's API has them, and show a page at /.

    There are /v1/completions, /v1/chat/completions, /v1/embeddings, /v1/models, /health and
    /metrics. Requests that come together are written together. Only this machine can ask, if
    --host says nothing else. Ctrl-C ends the server when what it writes is done; a second one at
    once. It needs the extra: pip install 'keras-t5gemma2[serve]'.

    \b
    t5gemma2 serve t5gemma2_tiny
    t5gemma2 serve t5gemma2_270m_270m --dtype bfloat16 --port 9000
    curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\
        -d '{"prompt": "Spell 4268 in German."}'
    """
    _check_extra()
    call("serve", backend, **chosen)


def _check_extra():
    modules = (name.replace("-", "_") for name in needed_by("serve"))
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise click.UsageError(
            f"The extra `serve` must be installed. Received: no {missing[0]}. Install it by "
            "`pip install 'keras-t5gemma2[serve]'`"
        )
