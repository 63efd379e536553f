"""A server that answers with a model, until it is interrupted."""

import contextlib
import os

import uvicorn

from keras_t5gemma2.cli import models
from keras_t5gemma2.messages import warn
from keras_t5gemma2.serving.app import make_app
from keras_t5gemma2.serving.engine import Engine
from keras_t5gemma2.serving.guard import hosts_of
from keras_t5gemma2.serving.limits import Limits
from keras_t5gemma2.tasks.t5gemma1 import T5GemmaTextEmbedder
from keras_t5gemma2.tasks.text_embedder import T5Gemma2TextEmbedder, embedder_beside

# Seconds that answers may still take when the server is told to end.
GRACE = 30


def run(
    out,
    preset,
    *,
    host,
    port,
    api_key,
    model_name,
    rows,
    queue,
    max_tokens,
    max_texts,
    max_images,
    max_body,
    timeout,
    quiet,
    **of_model,
):
    """Serves a model until SIGINT or SIGTERM.

    Args:
        out: text file.
        preset: string.
        host: string, the address to listen at.
        port: int, 0 for any that is free.
        api_key: string that requests must have, or `None`.
        model_name: string, what requests call the model, or `None` for the end of the preset.
        rows: int, texts that are written together.
        queue: int, texts that may wait.
        max_tokens: int, of a text.
        max_texts: int, of a request.
        max_images: int, of a request.
        max_body: int, mebibytes of a body.
        timeout: float, seconds of a request.
        quiet: bool. Whether to log errors alone.
        **of_model: of `models.load`.
    """
    limits = Limits(
        body_bytes=max_body << 20,
        max_tokens=max_tokens,
        texts=max_texts,
        images=max_images,
        seconds=timeout,
    )
    if hosts_of(host) is None and not api_key:
        warn(
            f"Whoever reaches {host} can use the model, as there is no key. Give --api-key, or "
            "leave --host out"
        )
    lm = models.load(preset, **of_model)
    engine = Engine(lm, rows, queue)
    cls = T5Gemma2TextEmbedder if lm.generation == 2 else T5GemmaTextEmbedder
    embedder = embedder_beside(lm, preset, cls)
    about = model_name or name_of(preset), limits, api_key, hosts_of(host)
    app = make_app(lm, engine, embedder, *about, engine.close)
    try:
        # uvicorn raises a signal again when it has ended in peace.
        with contextlib.suppress(KeyboardInterrupt):
            server_of(app, host, port, quiet).run()
    finally:
        engine.close(drops=True)


def server_of(app, host, port, quiet=False):
    """The `uvicorn.Server` of an application."""
    config = uvicorn.Config(
        app,
        host,
        port,
        log_level="warning" if quiet else "info",
        timeout_graceful_shutdown=GRACE,
        server_header=False,
        lifespan="on",
    )
    return uvicorn.Server(config)


def name_of(preset):
    """What a preset is called where no path is to be shown.

    Example:

    >>> name_of("hf://google/t5gemma-2-270m-270m"), name_of("/home/me/mine/"), name_of("tiny")
    ('t5gemma-2-270m-270m', 'mine', 'tiny')
    """
    return str(preset).rstrip("/" + os.sep).replace(os.sep, "/").rpartition("/")[2]
