"""What all parts share of loading and saving presets. Long by its docstrings."""

import contextlib
import contextvars
import functools
import math
import weakref
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import keras
import numpy as np

from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.files.atomic import atomic_directory, atomic_file
from keras_t5gemma2.files.config_objects import check_are_found
from keras_t5gemma2.files.disk import check_room, local_path, reserve, writing_h5
from keras_t5gemma2.files.finite import check_finite_group, check_finite_variables
from keras_t5gemma2.kernels.runtime import processes
from keras_t5gemma2.kernels.runtime.host_memory import host_array
from keras_t5gemma2.typing import Mixin, PathLike

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

# What stands before the registered name of a class in the `config.json` of a preset.
IMPORT = "import "

_is_writing = contextvars.ContextVar("is_writing", default=False)
# Whether whoever loads Keras's own files looks at their values.
_is_checked = contextvars.ContextVar("is_checked", default=False)
# What was said of models that were loaded in part.
_refusals: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
# Whether whoever builds a model from a preset's configuration adds the adapters from their files.
_reads_files = contextvars.ContextVar("reads_files", default=False)


@contextlib.contextmanager
def reading_adapter_files(preset):
    """Lets models be built from the configuration of a preset whose adapters come from files."""
    token = _reads_files.set("://" not in preset or preset.startswith("hf://"))
    try:
        yield
    finally:
        _reads_files.reset(token)


def check_is_dense(config, what):
    """Raises where a model has experts, which `what` does not know.

    Args:
        config: `BackboneConfig`.
        what: string, whose files these are.
    """
    for name, stack in config.stacks.items():
        if stack.experts is not None:
            raise ValueError(
                f"A model must have no experts to be saved for {what}, which has no such layers. "
                f"Received: {name}.experts={stack.experts}. Save it by `save_to_preset`"
            )


def check_reads_adapters(names):
    """Raises where a preset's adapters would be lost, which stand in files of their own.

    Args:
        names: iterable of strings.

    Raises:
        ValueError: nobody reads these files.
    """
    if names and not _reads_files.get():
        raise ValueError(
            f"The preset has the adapters {', '.join(names)} in files of their own, which "
            "keras-hub does not read. Load it by `T5Gemma2Seq2SeqLM.from_preset`, from a directory "
            "or from an hf:// handle; `T5Gemma2Backbone.from_preset` loads it without them."
        )


def by_one_process(
    method: Callable[Concatenate[Any, _Arguments], _Result],
) -> Callable[Concatenate[Any, _Arguments], _Result | None]:
    """A method that writes, for models that several processes train, each with a part of them.

    All processes call it. The first one writes, with all values at hand, and none goes on before.
    """

    @functools.wraps(method)
    def write(self: Any, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result | None:
        with _one_writer(self) as is_writer:
            return method(self, *args, **kwargs) if is_writer else None

    return write


@contextlib.contextmanager
def _one_writer(layer):
    # Of torch's processes each has all of the model, and the user says which one writes.
    if _is_writing.get() or not processes.is_joint():
        yield True
        return
    spread = [v for v in layer.variables if not processes.is_whole(v.value)]
    values = [variable.value for variable in spread]
    token = _is_writing.set(True)
    try:
        for variable, value in zip(spread, values, strict=True):
            of_all = processes.whole(value)
            if processes.index() == 0:
                compat.replace_value(variable, of_all)
        yield processes.index() == 0
    finally:
        _is_writing.reset(token)
        for variable, value in zip(spread, values, strict=True):
            compat.replace_value(variable, value)
        processes.wait("saving")


def save_preset(save, preset_dir, replaced=(), finish=None):
    """Writes a preset beside its place and moves it there whole, or leaves what was there.

    Args:
        save: function of the path of a directory, which it writes to.
        preset_dir: path of the directory, made if it is not there; other files of it stay.
        replaced: patterns of files of an earlier save that go even if no new one has their name.
        finish: function of the directory written to and of the one its files then go to.
    """
    with atomic_directory(preset_dir, replaced) as directory:
        save(str(directory))
        if finish is not None:
            finish(directory, local_path(preset_dir))


def save_model(model, save, filepath, overwrite=True, zipped=None, **kwargs):
    """`save`, which is `keras.Model.save` of a model, to a file that is whole or not there."""
    if _is_remote(filepath):
        return save(filepath, overwrite, zipped, **kwargs)
    path = local_path(filepath)
    is_asked = not overwrite and path.exists()  # Keras asks whether to go on
    if is_asked or zipped is False or path.suffix != ".keras":
        return save(path, overwrite, zipped, **kwargs)
    with atomic_file(path) as temporary:
        check_room(temporary, sum(_sizes(model)))
        save(temporary, overwrite, zipped, **kwargs)


def save_weights(model, save, filepath, overwrite=True, max_shard_size=None):
    """`save`, which is `keras.Model.save_weights` of a model, to a file whole or not there."""
    if _is_remote(filepath):
        return save(filepath, overwrite, max_shard_size)
    path = local_path(filepath)
    if max_shard_size is not None or (not overwrite and path.exists()):
        check_room(path, sum(_sizes(model)))
        return save(path, overwrite, max_shard_size)
    with atomic_file(path) as temporary, writing_h5(temporary, _sizes(model)):
        save(temporary, overwrite)


def load_weights(model, load, filepath, *args, allow_nonfinite=False, **kwargs):
    """`load`, which is `keras.Model.load_weights` of a model, of finite values; all or none."""
    path = filepath if _is_remote(filepath) else local_path(filepath)
    variables = [*model.variables, *getattr(getattr(model, "optimizer", None), "variables", ())]
    values = [_copy(variable.value) for variable in variables]
    token = _is_checked.set(True)
    try:
        load(path, *args, **kwargs)
        if not allow_nonfinite:
            check_finite_variables(model.weights, filepath)
    except BaseException:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        raise
    finally:
        _is_checked.reset(token)


def check_stored(model, store):
    """Raises where a model's part of a file that `keras.saving.load_model` reads is not finite."""
    if _is_checked.get():
        return
    group = compat.stored_group(store)
    if group is None:
        # Keras forgets an error if it meets the model again where the file has nothing of it.
        if model in _refusals:
            raise ValueError(_refusals[model])
        return
    remedy = (
        "Make the model, and give its `load_weights` the path and `allow_nonfinite=True` to load "
        "it all the same"
    )
    try:
        check_finite_group(group, f"the weights of {model.name}", remedy)
    except ValueError as error:
        _refusals[model] = str(error)
        raise


def _is_remote(path):
    return "://" in str(path)


def _sizes(model):
    """The bytes of each variable."""
    dtypes = ((v.shape, keras.backend.standardize_dtype(v.dtype)) for v in model.variables)
    return [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in dtypes]


def _copy(value):
    """A copy on the host, or of what other processes hold a part of, the value itself."""
    return np.array(host_array(value)) if processes.is_whole(value) else value


class SavesPresets(Mixin):
    """A layer whose preset is whole or not there; goes before the class of keras-hub."""

    # Files of an earlier save that go even if the new one has none of the same name.
    _replaced_files: tuple[str, ...] = ()

    @by_one_process
    def save_to_preset(self, preset_dir: PathLike, *args: Any, **kwargs: Any) -> None:
        """Saves to a preset directory, whose other files stay.

        Where several processes of JAX have a part of a model each, all of them call this.

        Args:
            preset_dir: path of the directory, made if it is not there.
            *args: as the keras-hub class has them.
            **kwargs: as the keras-hub class has them.

        Example:

        >>> backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny")
        >>> backbone.save_to_preset(directory)
        >>> sorted(path.name for path in directory.iterdir())
        ['README.md', 'config.json', 'metadata.json', 'model.weights.h5']
        """
        check_are_found(self)
        save = super().save_to_preset

        def write(directory):
            save(directory, *args, **kwargs)

        save_preset(write, preset_dir, self._replaced_files, self._finish_preset)

    def _finish_preset(self, directory, place):
        # Called when all is written to `directory`, whose files then go to `place`.
        pass


class SavesModels(Mixin):
    """A model whose files are whole or not there; goes before the class of Keras.

    `~` is expanded in paths. A disk without room for the file is an `OSError` before it is begun.
    """

    def save(
        self, filepath: PathLike, overwrite: bool = True, zipped: bool | None = None, **kwargs: Any
    ) -> None:
        """As `keras.Model.save`; what is at `filepath` stays until all is written.

        Example:

        >>> backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny")
        >>> backbone.save(directory / "model.keras")
        >>> keras.saving.load_model(directory / "model.keras").count_params()
        2050976
        """
        save_model(self, super().save, filepath, overwrite, zipped, **kwargs)

    def save_weights(
        self, filepath: PathLike, overwrite: bool = True, max_shard_size: float | None = None
    ) -> None:
        """As `keras.Model.save_weights`; what is at `filepath` stays until all is written.

        Example:

        >>> backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny")
        >>> backbone.save_weights(directory / "model.weights.h5")
        >>> sorted(path.name for path in directory.iterdir())
        ['model.weights.h5']
        """
        save_weights(self, super().save_weights, filepath, overwrite, max_shard_size)

    def save_own_variables(self, store: Any) -> None:
        reserve()  # Keras has just opened the file
        super().save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        check_stored(self, store)
        super().load_own_variables(store)

    def load_weights(
        self, filepath: PathLike, *args: Any, allow_nonfinite: bool = False, **kwargs: Any
    ) -> None:
        """As `keras.Model` has it. Weights that are NaN or infinite are refused.

        If it fails or is interrupted, all is as before: until it is done, the values of before are
        kept in the memory of the host.

        Args:
            filepath: path of the file.
            *args: as of Keras's.
            allow_nonfinite: bool. Whether weights may be NaN or infinite.
            **kwargs: as of Keras's.

        Raises:
            ValueError: a weight is not finite; the message names it.

        Example:

        >>> backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny")
        >>> backbone.save_weights(directory / "model.weights.h5")
        >>> backbone.load_weights(directory / "model.weights.h5")
        """
        options = {"allow_nonfinite": allow_nonfinite, **kwargs}
        load_weights(self, super().load_weights, filepath, *args, **options)
