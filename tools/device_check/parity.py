"""Logits and greedy text of a small random model, against transformers on the CPU in float32."""

import dataclasses
import tempfile

import numpy as np
from device_check.devices import of_benchmarks

_LENGTHS, _PROMPT, _NEW = (96, 61), 4, 24
# What the largest error of a logit may be, of the spread of all. In bfloat16 that of the reference
# is the measure, and this many times as much.
_FLOAT32, _TIMES = 2e-3, 3.0


def records():
    """Yields a dict for each dtype and each of logits and text."""
    sizes = of_benchmarks("sizes")
    shape = dataclasses.replace(
        sizes.Sizes(encoder_layers=7, decoder_layers=7),
        **{"vocabulary": 512, "width": 128, "mlp": 256, "heads": 4, "head": 64, "window": 32},
    )
    with tempfile.TemporaryDirectory() as directory:
        sizes.write_config(directory, shape, "tiny")
        inputs = _inputs(shape.vocabulary)
        reference = _reference(directory)
        want, text = _their_logits(reference, inputs), _their_text(reference, inputs)
        theirs = _their_logits(reference.bfloat16(), inputs)
        for dtype in ("float32", "bfloat16"):
            yield from _of_dtype(directory, dtype, inputs, want, text, _error(theirs, want))


def _of_dtype(directory, dtype, inputs, want, text, theirs):
    import keras_t5gemma2

    backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset(directory, text_only=True, dtype=dtype)
    lm = keras_t5gemma2.T5Gemma2Seq2SeqLM(backbone)
    lm.compile(sampler="greedy")
    error, limit = _error(_our_logits(lm, inputs), want), _FLOAT32
    what = {"part": "parity", "what": f"logits, {dtype}", "error": error}
    if dtype == "bfloat16":
        limit, what = _TIMES * theirs, {**what, "note": f"transformers: {theirs:.2g}"}
    yield {**what, "ok": error <= limit}
    found = lm.generate(inputs, max_new_tokens=_NEW, stop_token_ids=None, strip_prompt=True)
    found = np.asarray(found["decoder_token_ids"])[:, :_NEW]
    same = float((found == text).mean())
    # In bfloat16 a tie may fall the other way, and all behind it is another text.
    is_same = {"ok": same == 1.0} if dtype == "float32" else {}
    yield {"part": "parity", "what": f"greedy text, {dtype}", "same_tokens": same, **is_same}


def _inputs(vocabulary):
    rng = np.random.default_rng(0)
    longest = max(_LENGTHS)
    ids = rng.integers(3, vocabulary // 2, (len(_LENGTHS), longest)).astype("int32")
    mask = (np.arange(longest) < np.array(_LENGTHS)[:, None]).astype("int32")
    prompt = rng.integers(3, vocabulary // 2, (len(_LENGTHS), _PROMPT)).astype("int32")
    prompt[:, 0] = 2
    return {
        "encoder_token_ids": ids * mask,
        "encoder_padding_mask": mask,
        "decoder_token_ids": prompt,
        "decoder_padding_mask": np.ones_like(prompt),
    }


def _reference(directory):
    """The model, which is saved in the directory too."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(directory)
    model = transformers.AutoModelForSeq2SeqLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and name.endswith("norm.weight"):
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif parameter.ndim == 2:  # far from zero, so that no two tokens are about as likely
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[1] ** -0.5)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    model.save_pretrained(directory)
    return model


def _their_inputs(inputs):
    import torch

    ids, mask, prompt, _ = (torch.from_numpy(x).long() for x in inputs.values())
    return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": prompt}


def _their_logits(model, inputs):
    import torch

    with torch.inference_mode():
        return model(**_their_inputs(inputs)).logits.float().numpy()


def _their_text(model, inputs):
    import torch

    with torch.inference_mode():
        found = model.generate(**_their_inputs(inputs), max_new_tokens=_NEW, do_sample=False)
    return found[:, _PROMPT:].numpy()


def _our_logits(lm, inputs):
    from keras import ops

    hidden = lm.backbone.predict_on_batch(lm.backbone.complete(inputs))["decoder_sequence_output"]
    logits = lm.backbone.token_embedding(ops.convert_to_tensor(hidden), reverse=True)
    return ops.convert_to_numpy(ops.cast(logits, "float32"))


def _error(got, want):
    return float(np.abs(got - want).max() / want.std())
