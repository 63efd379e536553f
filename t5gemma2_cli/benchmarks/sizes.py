"""The published 270M shape, what its works move and compute at least, and what a machine can do."""

import dataclasses
import itertools
import json
import pathlib
import time

_SLIDING, _FULL = "sliding_attention", "full_attention"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A model of the 270M shape, of fewer layers where a quick look is wanted.

    Args:
        encoder_layers, decoder_layers, tower_layers: int.
        vocabulary: int. Rows of the embedding table.
    """

    encoder_layers: int = 18
    decoder_layers: int = 18
    tower_layers: int = 27
    vocabulary: int = 262_144
    width: int = 640
    mlp: int = 2048
    heads: int = 4
    key_heads: int = 1
    head: int = 256
    window: int = 512

    def is_full(self, layer):
        return (layer + 1) % 6 == 0

    @property
    def weights_of_a_layer(self):
        """Numbers in the projections of one layer."""
        attention = 2 * self.width * self.head * (self.heads + self.key_heads)
        return attention + 3 * self.width * self.mlp

    @property
    def table(self):
        return self.vocabulary * self.width


def write_config(directory, sizes, vision="none"):
    """Writes `config.json` of the reference's format: all implementations can read it.

    Args:
        directory: path.
        sizes: `Sizes`.
        vision: "none"; "published" for the tower as published; "tiny" for the reference, which
            cannot be built without one.
    """
    rope = {
        _FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
        _SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
    }
    text = {
        **{"vocab_size": sizes.vocabulary, "hidden_size": sizes.width, "head_dim": sizes.head},
        **{"intermediate_size": sizes.mlp, "num_attention_heads": sizes.heads},
        **{"num_key_value_heads": sizes.key_heads, "sliding_window": sizes.window},
        **{"query_pre_attn_scalar": 256, "max_position_embeddings": 131_072},
        **{"rope_parameters": rope, "rms_norm_eps": 1e-6, "attention_bias": False},
        **{"hidden_activation": "gelu_pytorch_tanh", "initializer_range": 0.02},
        **{"attention_dropout": 0.0, "dropout_rate": 0.0, "tie_word_embeddings": True},
        **{"attn_logit_softcapping": None, "final_logit_softcapping": None},
    }
    encoder = {"text_config": {**text, **_layers(sizes.encoder_layers)}}
    if vision != "none":
        encoder["vision_config"] = _tower(*_TOWERS[vision], sizes.tower_layers)
        encoder["mm_tokens_per_image"] = 256 if vision == "published" else 4
    config = {
        **{"model_type": "t5gemma2", "architectures": ["T5Gemma2ForConditionalGeneration"]},
        **{"encoder": encoder, "decoder": {**text, **_layers(sizes.decoder_layers)}},
        # Of the special ids a small vocabulary has only the first.
        "eoi_token_index": min(256_000, sizes.vocabulary - 2),
        "image_token_index": min(256_001, sizes.vocabulary - 1),
        **{"is_encoder_decoder": True, "tie_word_embeddings": True},
        **{"dropout_rate": 0.0, "attention_dropout": 0.0},
    }
    encoder["eoi_token_index"] = config["eoi_token_index"]
    pathlib.Path(directory, "config.json").write_text(json.dumps(config))
    return directory


def _layers(count):
    kinds = [_FULL if Sizes().is_full(layer) else _SLIDING for layer in range(count)]
    return {"num_hidden_layers": count, "layer_types": kinds}


def _tower(width, mlp, heads, size, patch, layers):
    return {
        **{"model_type": "siglip_vision_model", "vision_use_head": False},
        **{"hidden_size": width, "intermediate_size": mlp, "num_hidden_layers": layers},
        **{"num_attention_heads": heads, "image_size": size, "patch_size": patch},
        **{"layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh", "num_channels": 3},
    }


# Width, MLP's width, heads, pixels of an image, pixels of a patch.
_TOWERS = {
    "published": (1152, 4304, 16, 896, 14),
    "tiny": (16, 16, 2, 28, 14),
}


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a work cannot do without: bytes read from memory, and operations."""

    moved: float
    operations: float

    def seconds(self, machine, dtype):
        """The least time on a machine; `None` where its rate for `dtype` is not known."""
        rate = machine["operations_per_second"].get(dtype)
        if rate is None:
            return None
        return max(self.moved / machine["bytes_per_second"], self.operations / rate)


def cost(work, sizes, dtype, batch, length, tokens=0):
    """The `Cost` of a work, or `None` where there is nothing to compare with.

    Args:
        work: "encode", "prefill", "decode", "train" or "text".
        sizes: `Sizes`.
        dtype: "float32" or "bfloat16".
        batch, length: int. Rows, and tokens of each on the encoder's side.
        tokens: int. Tokens of each row on the decoder's side.
    """
    size = {"float32": 4, "bfloat16": 2}[dtype]
    encode = _encode(sizes, size, batch, length)
    if work == "encode":
        return encode
    if work in ("prefill", "text"):
        return _add(encode, _decode(sizes, size, batch, length, tokens, logits=1))
    if work == "train":
        forward = _add(encode, _decode(sizes, size, batch, length, tokens, logits=tokens))
        # Back through frozen weights: the gradient of what was multiplied, none of the weights.
        return Cost(2 * forward.moved, 2 * forward.operations)
    if work == "decode":
        read = sizes.decoder_layers * sizes.weights_of_a_layer + sizes.table
        keys = 2 * sizes.decoder_layers * sizes.key_heads * sizes.head * batch * length
        scores = 4 * sizes.decoder_layers * sizes.heads * sizes.head * batch * length
        return Cost(size * (read + keys), 2 * batch * read + scores)
    return None


def _encode(sizes, size, batch, length):
    weights = sizes.encoder_layers * sizes.weights_of_a_layer
    seen = [
        length if sizes.is_full(layer) else min(length, sizes.window)
        for layer in range(sizes.encoder_layers)
    ]
    scores = 4 * sizes.heads * sizes.head * batch * length * sum(seen)
    return Cost(size * weights, 2 * weights * batch * length + scores)


def _decode(sizes, size, batch, length, tokens, logits):
    """`tokens` of each row at once, all of them new, of which the last `logits` are predicted."""
    layers = sizes.decoder_layers
    weights = layers * sizes.weights_of_a_layer
    keys = layers * 2 * sizes.width * sizes.key_heads * sizes.head
    scores = 4 * layers * sizes.heads * sizes.head * batch * tokens * (length + tokens / 2)
    operations = 2 * batch * (weights * tokens + keys * length + sizes.table * logits) + scores
    return Cost(size * (weights + sizes.table), operations)


def _add(one, other):
    return Cost(one.moved + other.moved, one.operations + other.operations)


# The machine ----------------------------------------------------------------------------------


def measure_machine(mebibytes=1024, matrix=4096):
    """The bytes that this machine reads in a second, and the operations that it does.

    Args:
        mebibytes: int. What is read: more than the caches hold.
        matrix: int. Rows and columns of what is multiplied, or fewer where that takes minutes.
    """
    import numpy as np

    rows = np.ones((mebibytes << 8, 1024), "float32")
    vector = np.ones((1024,), "float32")
    square = np.random.default_rng(0).standard_normal((matrix, matrix), "float32")
    reads, products = [lambda: rows @ vector], {"float32": [square]}
    try:
        import torch
    except ModuleNotFoundError:
        pass
    else:
        theirs = torch.from_numpy(square)
        reads.append(lambda: torch.mv(torch.from_numpy(rows), torch.from_numpy(vector)))
        products["float32"].append(theirs)
        products["bfloat16"] = [theirs.bfloat16()]
    return {
        "bytes_per_second": rows.nbytes / min(_seconds(read) for read in reads),
        "operations_per_second": {
            dtype: max(map(_operations_per_second, candidates))
            for dtype, candidates in products.items()
        },
    }


def _operations_per_second(square, seconds=2.0):
    """Of a matrix times itself, or of a corner of it where all of it would take far longer."""
    size = min(256, len(square))
    while True:
        corner = square[:size, :size]
        taken = _seconds(lambda corner=corner: corner @ corner)
        if size == len(square) or 8 * taken > seconds:  # twice the size takes 8 times as long
            return 2 * size**3 / taken
        size = min(2 * size, len(square))


def _seconds(run, repeats=7):
    """Of the fastest run: a limit is what can be reached, not what usually is."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(itertools.islice(times, 1, None))
