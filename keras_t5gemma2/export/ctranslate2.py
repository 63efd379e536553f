"""The text model for CTranslate2, by its own converter, with what it computes rightly."""

import pathlib
import shutil
import tempfile

from keras_t5gemma2.files.atomic import local_path
from keras_t5gemma2.messages import shown_path

# What CTranslate2's users make tokens with.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_README = """# {name}, for CTranslate2

Written by keras_t5gemma2 from a T5Gemma 2; {library} {release} reads it. Text alone: CTranslate2's
T5Gemma 2 has no vision tower.

## Lengths

**Inputs of the encoder must have at most {encoder} tokens**, start token included. CTranslate2's
encoder (release 4.8) ignores the windows of its sliding layers: each token sees all others, where
it was trained to see {left} to its left and {right} to its right. Up to {encoder} tokens this is
the same, and greedy tokens are those of keras_t5gemma2. Beyond, log-probabilities and texts differ,
and nothing says so: cut longer inputs yourself, or run them elsewhere.

Outputs of more than {decoder} tokens, the smallest window of the decoder, were not compared.

## Use

```python
import ctranslate2
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
translator = ctranslate2.Translator("{name}")
tokens = tokenizer.convert_ids_to_tokens(tokenizer("Spell 42 in German.").input_ids)
assert len(tokens) <= {encoder}
result = translator.translate_batch([tokens], beam_size=1, max_decoding_length=64)
ids = tokenizer.convert_tokens_to_ids(result[0].hypotheses[0])
print(tokenizer.decode(ids, skip_special_tokens=True))
```

`score_batch` leaves the start token out, and its scores are those of other texts.
"""


def write_ctranslate2(lm, path, name=None, dtype=None):
    """Writes a directory that `ctranslate2.Translator` reads.

    Args:
        lm: `T5Gemma2Seq2SeqLM`, of floats; adapters that are active are merged into the weights.
        path: path of the directory, which must not be there or be empty.
        name: string, what its README calls it; by default its own name.
        dtype: "float32", "bfloat16", "float16" or `None`, as which the weights are stored.

    Raises:
        ImportError: CTranslate2 is not installed, or what its converter needs.
        ValueError: the model has no tokenizer.
    """
    if lm.preprocessor is None:
        raise ValueError(
            "CTranslate2 stores the vocabulary with the model. Received: a task with "
            f"preprocessor=None, to be written to {shown_path(path)}. Give it a preprocessor"
        )
    converter, library = _converter()
    path = local_path(path)
    with tempfile.TemporaryDirectory(dir=path.resolve().parent, prefix=".ctranslate2-") as scratch:
        checkpoint = pathlib.Path(scratch, "checkpoint")
        lm.export_to_transformers(checkpoint)
        converter(str(checkpoint)).convert(str(path), quantization=dtype, force=True)
        for file in _TOKENIZER_FILES:
            if (checkpoint / file).is_file():
                shutil.copyfile(checkpoint / file, path / file)
    text = _readme(lm, name or path.name, library)
    (path / "README.md").write_text(text, encoding="utf-8")


def safe_length(config):
    """The most tokens of an input of which no token's window hides another; `None`: any.

    Args:
        config: `BackboneConfig`.

    Example:

    >>> import keras_t5gemma2
    >>> backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny", load_weights=False)
    >>> safe_length(backbone.config)
    8
    """
    return min(((window + 1) // 2 for window in _windows(config.encoder)), default=None)


def _converter():
    try:
        import ctranslate2
        from ctranslate2.converters import TransformersConverter
    except ImportError as error:
        raise ImportError(
            "CTranslate2's converter needs ctranslate2, transformers and torch. Missing: "
            f'{error.name}. Install the extra: pip install "keras-t5gemma2[ctranslate2]"'
        ) from error
    return TransformersConverter, ctranslate2


def _readme(lm, name, library):
    config = lm.backbone.config
    encoder, windows = safe_length(config), _windows(config.encoder)
    smallest = min(windows, default=0)
    return _README.format(
        name=name,
        library="CTranslate2",
        release=library.__version__,
        encoder="any number of" if encoder is None else encoder,
        left=max(smallest - 1, 0) // 2,
        right=smallest // 2,
        decoder=min(_windows(config.decoder), default=lm.preprocessor.decoder_sequence_length),
    )


def _windows(stack):
    return [layer.window for layer in stack.layers if layer.window is not None]
