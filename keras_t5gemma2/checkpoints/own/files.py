"""What a preset directory says beside what keras-hub writes of it."""

import json
import pathlib

import keras
import keras_hub

from keras_t5gemma2.checkpoints.cards import Card, write_card
from keras_t5gemma2.checkpoints.saving import IMPORT


def finish_preset(directory, backbone, adapters=()):
    """Changes the `config.json` and `metadata.json` that keras-hub wrote.

    Args:
        directory: path of the directory.
        backbone: `T5Gemma2Backbone`.
        adapters: names of adapters that stand in files of their own, without which no other
            loader may make the model.
    """
    directory = pathlib.Path(directory)
    values = _read(directory / "config.json")
    names = keras.saving.get_custom_objects()
    if (told := IMPORT + values["registered_name"]) in names:
        values["registered_name"] = told
    if adapters:
        values["config"]["adapters"] = list(adapters)
    _write(directory / "config.json", values)
    metadata = _read(directory / "metadata.json")
    _write(directory / "metadata.json", {**metadata, "tasks": _tasks(type(backbone))})


def _tasks(backbone_class):
    """The names of keras-hub's tasks that the classes for this backbone are derived from.

    keras-hub itself takes the first base class, whatever it is.
    """
    names = set()
    for cls in keras.saving.get_custom_objects().values():
        is_task = isinstance(cls, type) and issubclass(cls, keras_hub.models.Task)
        if is_task and cls.backbone_cls is backbone_class:
            names.add(next(base for base in cls.__mro__[1:] if _is_of_keras_hub(base)).__name__)
    names.discard("Task")  # of a kind that keras-hub does not know
    return sorted(names)


def _is_of_keras_hub(cls):
    return cls.__module__.partition(".")[0] == "keras_hub"


def write_preset_card(directory, place, model, metrics=None):
    """Writes the README of a preset of this package.

    Args:
        directory: path of the directory that is written.
        place: `pathlib.Path` of the directory that its files go to in the end.
        model: the task or the backbone.
        metrics: dict of numbers by name, of training.
    """
    write_card(directory, preset_card(place.resolve().name, model, metrics), place)


def preset_card(name, model, metrics=None):
    """The `Card` of a preset whose directory or handle is `name`."""
    backbone = getattr(model, "backbone", model)
    is_task = backbone is not model
    cls = type(model)
    module = cls.__module__.partition(".")[0]
    owner = f"{module}." if module == "keras_t5gemma2" else ""
    start = f"import {module}" if owner else f"from {cls.__module__} import {cls.__name__}"
    variable = "lm" if is_task else "backbone"
    pipeline, out = getattr(model, "hub_task", (_pipeline(backbone), None))
    usage = f'{start}\n{variable} = {owner}{cls.__name__}.from_preset("{name}")'
    return Card(
        title=name.rpartition("/")[2],
        what=f"{_what(backbone, is_task, out)}, saved by keras_t5gemma2 for Keras 3 on JAX, "
        "TensorFlow and PyTorch.",
        usage=usage,
        library="keras_t5gemma2",
        source=backbone.source,
        tags=("jax", "tensorflow", "pytorch"),
        pipeline=pipeline,
        metrics=metrics or {},
    )


def _what(backbone, is_task, out):
    read = "text and images" if backbone.vision else "text"
    model = f"T5Gemma {backbone.generation} model"
    if backbone.decoder is None:
        return f"The encoder of a {model} ({read} in, {out or 'states or vectors'} out)"
    what = "A" if is_task else "The backbone of a"
    return f"{what} {model} (an encoder-decoder: {read} in, {out or 'text'} out)"


def _pipeline(backbone):
    if backbone.decoder is None:
        return "feature-extraction"
    return "image-text-to-text" if backbone.vision else "text-generation"


def metrics_of(task):
    """The loss and metrics of the last epoch of `fit`, where there was one."""
    logs = getattr(getattr(task, "history", None), "history", {})
    return {name: float(values[-1]) for name, values in logs.items() if values}


def _read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path, values):
    path.write_text(json.dumps(values, indent=4), encoding="utf-8")
