"""A task that reads what the encoder reads and writes no text: what heads and embedders share."""

import contextlib
from collections.abc import Mapping
from typing import Any

import keras

from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.model.inputs import of_encoder
from keras_t5gemma2.tasks.task import T5Gemma2Task
from keras_t5gemma2.typing import PathLike, Tensor


class _Missing:
    """In the place of a method that models have which write text."""

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, task, owner=None):
        raise AttributeError(
            f"A {owner.__name__} has no `{self.name}`, which is for models that write text. Load "
            "a T5Gemma2Seq2SeqLM"
        )


def _refuse_to_be_cloned(task):
    raise ValueError(
        "`clone_model` would make a plain model of the task, which takes arrays alone. Received: a "
        f"{type(task).__name__}. Call `type(task).from_config(task.get_config())`, and "
        "`set_weights(task.get_weights())` for the same weights"
    )


@compat.asked_before_cloning(_refuse_to_be_cloned)
class EncoderTask(T5Gemma2Task):
    """A task whose inputs are those of the encoder; goes before a class of keras-hub."""

    score = _Missing()
    sample_logits = _Missing()
    token_sums = _Missing()
    save_to_keras_hub_preset = _Missing()

    def __getattr__(self, name: str) -> Any:
        missing, inherited = vars(EncoderTask).get(name), getattr(super(), "__getattr__", None)
        if isinstance(missing, _Missing):  # again: torch's modules would say something else
            missing.__get__(self, type(self))
        if inherited is None:
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        return inherited(name)

    def __call__(self, inputs: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        return super().__call__(of_encoder(inputs), *args, **kwargs)

    def compute_output_spec(
        self, inputs: Mapping[str, Tensor], training: bool | None = None, mask: Tensor = None
    ) -> Any:
        return super().compute_output_spec(of_encoder(inputs), training, mask)

    def call(
        self,
        inputs: Mapping[str, Tensor],
        training: bool | None = None,
        mask: Tensor = None,
        **kwargs: Any,
    ) -> Any:
        return super().call(of_encoder(inputs), training, mask, **kwargs)

    def _without_logits(self):
        return contextlib.nullcontext()  # outputs are few

    # Files ------------------------------------------------------------------------------------

    def save_task_weights(self, filepath: PathLike) -> None:
        """Writes the weights of the head alone, as keras-hub does without the optimizer's state.

        Args:
            filepath: path of the file, which ends with `.weights.h5`.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2TextClassifier
        >>> classifier = cls.from_preset("t5gemma2_tiny", num_classes=2)
        >>> classifier.save_task_weights(directory / "task.weights.h5")
        """
        skipped = [*compat.all_layers(self.backbone), self.optimizer]
        keras.saving.save_weights(self, filepath, objects_to_skip=skipped)

    def head_variables(self) -> list[keras.Variable]:
        """List of the weights of the task that are none of the backbone's.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2TextClassifier
        >>> classifier = cls.from_preset("t5gemma2_tiny", num_classes=2)
        >>> [variable.path for variable in classifier.head_variables()]
        ['head/output/kernel', 'head/output/bias']
        """
        of_backbone = {id(variable) for variable in self.backbone.variables}
        return [v for v in self.weights if id(v) not in of_backbone]
