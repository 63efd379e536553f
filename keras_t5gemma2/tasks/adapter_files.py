"""What a task saves and loads of low-rank adapters: one by one, and with the whole task."""

import dataclasses
import pathlib

from keras import ops

from keras_t5gemma2.config_parts import check_are_found, check_parts
from keras_t5gemma2.disk import local_path
from keras_t5gemma2.lora.config import LoRAConfig, check_adapter_name, check_described
from keras_t5gemma2.messages import shown
from keras_t5gemma2.saving import by_one_process, check_reads_adapters
from keras_t5gemma2.tasks.adapters import HasAdapters


class SavesAdapters(HasAdapters):
    """A task whose adapters are saved and loaded, on their own and with the task."""

    _adapters_in_files = False  # while a preset is saved

    @by_one_process
    def save_adapter(self, path, name="default"):
        """Writes one adapter to one small file, with its configuration.

        Beside it comes a text about it, `french.md` say, with its base model, the lines that load
        it and the terms it is shared under. One that somebody has edited stays, with a warning.

        Args:
            path: path of the file, `french.safetensors` say; replaced whole or not at all.
            name: string.
        """
        from keras_t5gemma2.checkpoints import adapters, cards

        self._write_adapter(path, name)
        card = adapters.adapter_card(path, self.adapters[name], self.backbone.source)
        cards.write_card_beside(path, dataclasses.replace(card, metrics=self._metrics_of_fit()))

    def load_adapter(self, path, name="default", allow_nonfinite=False):
        """Adds an adapter that `save_adapter` wrote, and makes it the active one.

        Args:
            path: path of the file; or of a directory that the peft library wrote, which
                `load_peft_adapter` reads.
            name: string. What to call it here. An adapter of this name that is there already
                must have the same configuration, and takes the values of the file.
            allow_nonfinite: bool. Whether values may be NaN or infinite.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no whole file of an adapter, holds values that are not finite, or
                was made for a model of other sizes; the message says what is wrong, and nothing
                has changed.
        """
        from keras_t5gemma2.checkpoints import adapters

        if local_path(path).is_dir():
            self.load_peft_adapter(path, name, allow_nonfinite)
            return
        self._take(name, adapters.read_adapter(path), path, allow_nonfinite)

    @by_one_process
    def save_peft_adapter(self, directory, name="default"):
        """Writes one adapter in the format of the peft library.

        `peft.PeftModel.from_pretrained(model, directory)` reads it, for the reference's model. A
        README goes with it, and for weights of Gemma the notice that its terms ask for.

        Args:
            directory: path of the directory, made if it is not there.
            name: string.
        """
        from keras_t5gemma2.checkpoints import peft

        stored, metrics = self._stored(name), self._metrics_of_fit()
        peft.write_peft_adapter(directory, stored, self.backbone, metrics=metrics)

    def load_peft_adapter(self, directory, name="default", allow_nonfinite=False):
        """Adds an adapter that the peft library wrote, and makes it the active one.

        What it has on the vision tower is left out with a warning where it adds exactly nothing,
        as with `target_modules=["q_proj", "v_proj"]` or "all-linear" after training on text.

        Args:
            directory: path of a directory with `adapter_config.json` and
                `adapter_model.safetensors`.
            name: string. What to call it here, as for `load_adapter`.
            allow_nonfinite: bool. Whether values may be NaN or infinite.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: it is no LoRA, rsLoRA or DoRA adapter of the text stacks, was trained on
                the vision tower too, holds values that are not finite, or was made for a model of
                other sizes; nothing has changed.
        """
        from keras_t5gemma2.checkpoints import peft

        stored = peft.read_peft_adapter(directory, self.backbone)
        self._take(name, stored, directory, allow_nonfinite)

    def _stored(self, name):
        from keras_t5gemma2.checkpoints import adapters

        self._check_known([name])
        return adapters.adapter_of(self.backbone, name, self._adapter_configs[name])

    def _take(self, name, stored, origin, allow_nonfinite=False):
        """Adds a `StoredAdapter`, read from `origin`, and makes it the active one."""
        from keras_t5gemma2.checkpoints import adapters
        from keras_t5gemma2.checkpoints.finite import check_finite_arrays

        check_adapter_name(name)
        self._check_not_merged("an adapter is loaded")
        adapters.check_fits(stored, self.backbone, origin)
        if not allow_nonfinite:
            check_finite_arrays(stored.tensors, origin)
        own = self._adapter_configs.get(name, stored.config)
        if own != stored.config:
            raise ValueError(
                f"The adapter {shown(name)} must have the configuration of {origin} to take its "
                f"values. Received: {shown(own)} and {shown(stored.config)}. Give another name, or "
                "call "
                "`remove_adapter` first."
            )
        own = [v for x in self._dense_layers().values() for v in _variables(x, name)]
        values = [ops.copy(variable) for variable in own]
        try:
            with self._as_before_if_it_fails():
                if name not in self._adapter_configs:
                    self._add_adapter(name, stored.config)
                adapters.assign(stored, self.backbone, name)
                self.set_adapter(name)
        except BaseException:
            for variable, value in zip(own, values, strict=True):
                variable.assign(value)
            raise

    # The whole task ---------------------------------------------------------------------------

    def get_config(self):
        check_are_found(self.backbone, self.preprocessor)
        config = super().get_config()
        if self._adapter_configs and not self._is_merged:
            parts = {"configs": self.adapters, "active": self.active_adapter}
            config["adapters"] = {**parts, "in_files": self._adapters_in_files}
        return config

    @classmethod
    def from_config(cls, config):
        parts = {"backbone": cls.backbone_cls, "preprocessor": cls.preprocessor_cls}
        check_parts(cls, config, **parts)
        adapters = config.get("adapters")
        if adapters is not None:
            check_described(adapters, f"a {cls.__name__}")
        fields = {k: v for k, v in config.items() if k != "adapters"}
        for key in parts:
            if isinstance(fields.get(key), dict):  # Keras would compile it as this says.
                fields[key] = {k: v for k, v in fields[key].items() if k != "compile_config"}
        lm = super().from_config(fields)
        if adapters is None:
            return lm
        if adapters.get("in_files") is not True:
            for name, fields in adapters["configs"].items():
                lm._add_adapter(name, LoRAConfig.from_file(fields, f"The adapter {shown(name)}"))
            lm.set_adapter(adapters["active"])
        else:
            check_reads_adapters(adapters["configs"])
        return lm

    def save_to_preset(self, preset_dir, *args, **kwargs):
        """The base weights in Keras's file, and each adapter in a file of `adapters/`."""
        if not self._adapter_configs or self._is_merged:
            super().save_to_preset(preset_dir, *args, **kwargs)
            return
        try:
            self._put_adapters_in_files(True)
            super().save_to_preset(preset_dir, *args, **kwargs)
        finally:
            self._put_adapters_in_files(False)
        for name in self._adapter_configs:
            path = pathlib.Path(preset_dir, "adapters", f"{name}.safetensors")
            self._write_adapter(path, name)

    def _write_adapter(self, path, name):
        from keras_t5gemma2.checkpoints import adapters

        adapters.write_adapter(path, self._stored(name), self.backbone.source)

    def _metrics_of_fit(self):
        from keras_t5gemma2.checkpoints.preset_files import metrics_of

        return metrics_of(self)

    def _put_adapters_in_files(self, in_files):
        self._adapters_in_files = in_files
        for layer in self._dense_layers().values():
            layer.saves_adapters = not in_files

    def _load_preset_adapters(self, preset, allow_nonfinite=False):
        """Adds the adapters of a preset; gives the task itself."""
        from keras_t5gemma2.checkpoints import presets

        if (found := presets.adapter_files(preset)) is not None:
            for name, path in found.paths.items():
                self.load_adapter(path, name, allow_nonfinite)
            self.set_adapter(found.active)
        return self


def _variables(layer, name):
    return list(layer.adapters[name].variables.values()) if name in layer.adapters else []
