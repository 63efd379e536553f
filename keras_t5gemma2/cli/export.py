"""A model for a runtime without Keras."""

import json

import keras

from keras_t5gemma2.cli import models
from keras_t5gemma2.files.disk import local_path

# What each backend writes; TensorFlow writes "litert", too.
_FORMATS = {"jax": "tf_saved_model", "tensorflow": "tf_saved_model", "torch": "torch"}


def run(
    out,
    preset,
    target,
    export_format=None,
    adapter=None,
    as_json=False,
    platforms=(),
    strings=False,
    accuracy_level=None,
    **options,
):
    """Writes the files, and tells `out` where they are.

    Args:
        out: text file.
        preset: string, as `models.load` has it.
        target: path of the directory or file.
        export_format: string, as `T5Gemma2Seq2SeqLM.export` has it, or `None` for the one that
            the backend writes.
        adapter: path or `None`, as `models.load` has it.
        as_json: bool.
        platforms: names, as `export` has them for the format "jax"; none for its default.
        strings: bool, as `export` has it.
        accuracy_level: "0", "4" or `None`, as `export` has it for a quantized model.
        **options: `dtype`, `quantize` and `text_only` of `models.load`, and sizes of `export`.

    Raises:
        FileExistsError: the target is there already.
    """
    of_model = {name: options.pop(name) for name in ("dtype", "quantize", "text_only")}
    path = local_path(target)
    if path.exists():
        raise FileExistsError(
            f"The target must not be there yet. Received: {path}. Remove it, or name another"
        )
    if platforms:
        options["platforms"] = list(platforms)
    if strings:
        options["strings"] = True
    if accuracy_level is not None:
        options["accuracy_level"] = int(accuracy_level)
    export_format = export_format or _FORMATS[keras.config.backend()]
    lm = models.load(preset, adapter, **of_model)
    try:
        lm.export(path, export_format, verbose=False, **options)
    except KeyboardInterrupt as error:
        error.add_note(f"Interrupted: nothing has been written to {path}")
        raise
    sizes = [file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file()]
    found = {"path": str(path), "format": export_format, "files": len(sizes), "bytes": sum(sizes)}
    text = f"{path}: {export_format}, {len(sizes)} files, {sum(sizes) / 1e6:,.1f} MB"
    print(json.dumps(found) if as_json else text, file=out)
