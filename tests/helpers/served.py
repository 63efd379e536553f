"""A server in a thread of the test."""

import contextlib
import threading
import time

import openai

import keras_t5gemma2
from keras_t5gemma2.cli.serve import server_of
from keras_t5gemma2.serving.app import make_app
from keras_t5gemma2.serving.engine import Engine

NAME, KEY = "tiny", "a key"


@contextlib.contextmanager
def served(lm, limits=None, api_key=KEY, hosts=("127.0.0.1",), **of_engine):
    """The address of a server of a model, and its `Engine`."""
    engine = Engine(lm, **of_engine)
    embedder = keras_t5gemma2.T5Gemma2TextEmbedder(lm.backbone, lm.preprocessor)
    app = make_app(lm, engine, embedder, NAME, limits, api_key, hosts, engine.close)
    server = server_of(app, "127.0.0.1", 0, quiet=True)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        (port,) = {socket.getsockname()[1] for s in server.servers for socket in s.sockets}
        yield f"http://127.0.0.1:{port}", engine
    finally:
        server.should_exit = True
        thread.join()
        engine.close(drops=True)


def client_of(address, key=KEY):
    """The official client, which tells the first error and asks no second time."""
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=120)


def tiny():
    """The embedded model, which chooses greedily."""
    lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    lm.compile(sampler="greedy")
    return lm
