"""What backbone, task and preprocessing layers share of loading and saving presets."""

import contextlib
import functools

from keras_t5gemma2.arguments import check_loading
from keras_t5gemma2.kernels import processes

_is_writing = False


def by_one_process(method):
    """A method that writes, for models that several processes train, each with a part of them.

    All processes call it. The first one writes, with all values at hand, and none goes on before.
    """

    @functools.wraps(method)
    def write(self, *args, **kwargs):
        with _one_writer(self) as is_writer:
            return method(self, *args, **kwargs) if is_writer else None

    return write


@contextlib.contextmanager
def _one_writer(layer):
    global _is_writing
    # Of torch's processes each has all of the model, and the user says which one writes.
    if _is_writing or not processes.is_joint():
        yield True
        return
    spread = [v for v in layer.variables if not processes.is_whole(v.value)]
    values = [variable.value for variable in spread]
    _is_writing = True
    try:
        for variable, value in zip(spread, values, strict=True):
            of_all = processes.whole(value)
            if processes.index() == 0:
                variable._value = of_all
        yield processes.index() == 0
    finally:
        _is_writing = False
        for variable, value in zip(spread, values, strict=True):
            variable._value = value
        processes.wait("saving")


class SavesAtomically:
    """Writes a preset beside its place and moves it there whole, or leaves what was there."""

    # Files of an earlier save that go even if the new one has none of the same name.
    _replaced_files = ()

    @by_one_process
    def save_to_preset(self, preset_dir, *args, **kwargs):
        """Saves to a preset directory, whose other files stay.

        Where several processes of JAX have a part of the model each, all of them call this.

        Args:
            preset_dir: path of the directory, made if it is not there.
            *args: as the keras-hub class has them.
            **kwargs: as the keras-hub class has them.
        """
        from keras_t5gemma2.checkpoints.atomic import atomic_directory

        with atomic_directory(preset_dir, self._replaced_files) as directory:
            super().save_to_preset(str(directory), *args, **kwargs)


class LoadsFiniteWeights:
    """A model whose `load_weights` takes no NaN; goes before the class of Keras."""

    def load_weights(self, filepath, *args, allow_nonfinite=False, **kwargs):
        """As `keras.Model` has it. Weights that are NaN or infinite are refused.

        Args:
            filepath: path of the file.
            *args: as of Keras's.
            allow_nonfinite: bool. Whether weights may be NaN or infinite.
            **kwargs: as of Keras's.

        Raises:
            ValueError: a weight is not finite; the message names it. The model then holds it.
        """
        super().load_weights(filepath, *args, **kwargs)
        if not allow_nonfinite:
            from keras_t5gemma2.checkpoints.finite import check_finite_variables

            check_finite_variables(self.weights, filepath)


class LoadsFromCheckpoints:
    """A preprocessing layer that is also read from a checkpoint in the reference's format."""

    @classmethod
    def from_preset(cls, preset, **kwargs):
        """The layer of a preset or of a published checkpoint.

        Args:
            preset: a name of `keras_t5gemma2.presets`, `hf://organization/repository`, a local
                directory in the reference's format, a preset directory, or any other handle
                that keras-hub knows.
            **kwargs: arguments of the constructor, instead of those of the preset.

        Raises:
            FileNotFoundError, PermissionError, ConnectionError: the files cannot be had; the
                message says why and what to do.
            TypeError: there is no such argument; the message names the nearest.
            ValueError: a file is not what it should be.
        """
        from keras_t5gemma2.checkpoints import presets

        check_loading(cls, "from_preset", kwargs, by_preset=("proto",))
        directory, preset = presets.locate(preset, load_weights=False)
        if directory is not None:
            return presets.load_layer(cls, directory, **kwargs)
        return super().from_preset(preset, **kwargs)
