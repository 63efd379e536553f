"""Measures how many requests a second a model answers: clients at once, and one after another.

    KERAS_BACKEND=torch python tools/serving_throughput.py --clients 32 --requests 128

Both numbers are of the same run, of the engine behind `t5gemma2 serve` without HTTP. The requests
are short ones of the embedded model, greedy. Memory is the most that the process has had.
"""

import argparse
import resource
import threading
import time

import keras
import numpy as np

import keras_t5gemma2
from keras_t5gemma2.serving.engine import Engine
from keras_t5gemma2.serving.replies import Text
from keras_t5gemma2.serving.tickets import tickets_of

LANGUAGES = ("German", "French", "Spanish", "Dutch")


def texts_of(count):
    """Questions of which no two are the same."""
    return [f"Spell {1000 + n} in {LANGUAGES[n % 4]}." for n in range(count)]


def one_at_a_time(lm, texts, length):
    """Seconds of each request where `generate` answers them one after another."""
    times = []
    for text in texts:
        began = time.perf_counter()
        lm.generate(text, max_new_tokens=length, verbose=0)
        times.append(time.perf_counter() - began)
    return times, sum(times)


def together(lm, texts, length, clients):
    """Seconds of each request of several clients, and seconds of all; the texts."""
    engine, waiting, lock = (
        Engine(lm, clients, len(texts)),
        list(enumerate(texts)),
        threading.Lock(),
    )
    times, found = [0.0] * len(texts), [""] * len(texts)

    def ask():
        while True:
            with lock:
                if not waiting:
                    return
                number, text = waiting.pop(0)
            began = time.perf_counter()
            ((tokens, _),) = engine.write(tickets_of(lm, text, max_new_tokens=length))
            times[number] = time.perf_counter() - began
            text = Text(lm.preprocessor.tokenizer, (), ())
            found[number] = text.add([token.id for token in tokens]) + text.finish()

    began = time.perf_counter()
    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    engine.close()
    return times, seconds, found


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="t5gemma2_tiny")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=32)
    options = parser.parse_args()
    lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset(options.preset)
    lm.compile(sampler="greedy")
    texts, length = texts_of(options.requests), options.new_tokens
    one_at_a_time(lm, texts[:2], length)  # what is compiled is no part of the measurement
    for _ in range(2):
        together(lm, texts, length, options.clients)
    alone, alone_seconds = one_at_a_time(lm, texts, length)
    times, seconds, found = together(lm, texts, length, options.clients)
    if found != lm.generate(texts, max_new_tokens=length, verbose=0):
        raise SystemExit("The texts are not those of generate")
    rates = len(texts) / alone_seconds, len(texts) / seconds
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{options.preset}, {keras.config.backend()}: {len(texts)} requests, {length} new tokens")
    print("| | requests a second | median, ms | p99, ms |\n| --- | ---: | ---: | ---: |")
    rows = (("one at a time", rates[0], alone), (f"{options.clients} clients", rates[1], times))
    for name, rate, of_each in rows:
        middle, high = np.percentile(of_each, [50, 99]) * 1000
        print(f"| {name} | {rate:.1f} | {middle:.0f} | {high:.0f} |")
    print(f"{rates[1] / rates[0]:.1f} times as many; at most {memory:.0f} MiB in use")


if __name__ == "__main__":
    main()
