"""A small reference model with adapters of peft, ours of the same weights, and their logits."""

import keras
import numpy as np
import peft
import torch
from keras import ops
from reference_models import VOCABULARY_SIZE, load_ours, tiny_reference

from keras_t5gemma2 import T5Gemma2Seq2SeqLM

SIZES = dict(
    encoder={"num_hidden_layers": 1, "layer_types": ["full_attention"]},
    decoder={"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]},
)
TEXT = (
    r".*\.(text_model|decoder)\.layers\.\d+\."
    r"(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
)
# The figure of the contract: logits of size about 1, through two implementations.
NEAR = {"rtol": 1e-4, "atol": 1e-4}


def arrays(seed=0):
    """Rows without padding: the means over tokens and over places are then the same."""
    rng = np.random.default_rng(seed)
    source, target, labels = (rng.integers(10, VOCABULARY_SIZE, (3, n)) for n in (11, 7, 7))
    inputs = {
        "encoder_token_ids": source,
        "encoder_padding_mask": np.ones_like(source),
        "decoder_token_ids": target,
        "decoder_padding_mask": np.ones_like(target),
    }
    return {name: value.astype("int32") for name, value in inputs.items()}, labels.astype("int32")


def theirs(seed=1, **options):
    """A reference model with an adapter of peft whose values are random."""
    model = peft.get_peft_model(tiny_reference(**SIZES), peft.LoraConfig(**options)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                usual = 1.0 if "magnitude" in name else 0.0
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(usual + 0.3 * noise)
    return model


def their_logits(model, x):
    ids = {name: torch.from_numpy(value).long() for name, value in x.items()}
    return model(
        input_ids=ids["encoder_token_ids"],
        attention_mask=ids["encoder_padding_mask"],
        decoder_input_ids=ids["decoder_token_ids"],
    ).logits


def our_task(learning_rate=0.1):
    lm = T5Gemma2Seq2SeqLM(load_ours(tiny_reference(**SIZES), text_only=True))
    lm.compile(optimizer=keras.optimizers.SGD(learning_rate))
    return lm


def our_logits(lm, x):
    return ops.convert_to_numpy(lm.predict_on_batch(x))
