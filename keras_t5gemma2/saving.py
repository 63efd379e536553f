"""What backbone, task and preprocessing layers share of loading and saving presets."""


class SavesAtomically:
    """Writes a preset beside its place and moves it there whole, or leaves what was there."""

    # Files of an earlier save that go even if the new one has none of the same name.
    _replaced_files = ()

    def save_to_preset(self, preset_dir, *args, **kwargs):
        """Saves to a preset directory, whose other files stay.

        Args:
            preset_dir: path of the directory, made if it is not there.
            *args: as the keras-hub class has them.
            **kwargs: as the keras-hub class has them.
        """
        from keras_t5gemma2.checkpoints.atomic import atomic_directory

        with atomic_directory(preset_dir, self._replaced_files) as directory:
            super().save_to_preset(str(directory), *args, **kwargs)


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
            ValueError: a file is not what it should be.
        """
        from keras_t5gemma2.checkpoints import presets

        directory, preset = presets.locate(preset, load_weights=False)
        if directory is not None:
            return presets.load_layer(cls, directory, **kwargs)
        return super().from_preset(preset, **kwargs)
