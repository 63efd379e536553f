"""A task: made, loaded, saved, adapted, quantized and exported. Long by its docstrings alone."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Self

import keras
import keras_hub

from keras_t5gemma2.adapters import files as adapter_files
from keras_t5gemma2.adapters import starts
from keras_t5gemma2.arguments import check_constructor, check_loading
from keras_t5gemma2.checkpoints import adapter as stored_adapters
from keras_t5gemma2.checkpoints import cards, formats, hub_upload, saving
from keras_t5gemma2.checkpoints.gemma3.reader import Gemma3Checkpoint
from keras_t5gemma2.checkpoints.heads import TASK_WEIGHTS
from keras_t5gemma2.checkpoints.keras_hub import writer as keras_hub_export
from keras_t5gemma2.checkpoints.own import files as preset_files
from keras_t5gemma2.checkpoints.own.files import metrics_of
from keras_t5gemma2.checkpoints.saving import (
    by_one_process,
    check_reads_adapters,
    reading_adapter_files,
)
from keras_t5gemma2.checkpoints.transformers import peft
from keras_t5gemma2.checkpoints.transformers import writer as transformers_writer
from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.export import runtimes
from keras_t5gemma2.files.config_objects import check_are_found, check_parts
from keras_t5gemma2.files.disk import local_path
from keras_t5gemma2.lora.apart import adapters_apart, are_apart
from keras_t5gemma2.lora.config import LoRAConfig, check_described
from keras_t5gemma2.messages import short_errors, shown, warn
from keras_t5gemma2.model.backbone import T5Gemma2Backbone
from keras_t5gemma2.model.from_checkpoint import load_backbone
from keras_t5gemma2.model.quantize import with_quantize_of_class
from keras_t5gemma2.preprocessing.from_preset import (
    given_lengths,
    make_preprocessor,
    make_task_preprocessor,
)
from keras_t5gemma2.preprocessing.preprocessor import T5Gemma2Seq2SeqLMPreprocessor
from keras_t5gemma2.quantization import counting
from keras_t5gemma2.registry import presets
from keras_t5gemma2.tasks import vocabulary
from keras_t5gemma2.tasks.agreement import check_agreement
from keras_t5gemma2.tasks.pruning import Pruning
from keras_t5gemma2.tasks.trainable import TrainableTask
from keras_t5gemma2.typing import (
    AdapterStart,
    ColumnNames,
    DType,
    EmbeddingTable,
    FileDType,
    Inputs,
    LayerFilters,
    PathLike,
    QuantizationMode,
    Tensor,
)

# Files of an earlier save that go even if the new one has none of the same name.
_REPLACED_FILES = (
    *("model*.weights.h5", "model.weights.json", TASK_WEIGHTS),
    "adapters/*.safetensors",
)


class T5Gemma2Task(TrainableTask):
    """A backbone, with what any task on it has.

    Args:
        backbone: `T5Gemma2Backbone`.
        preprocessor: `T5Gemma2Seq2SeqLMPreprocessor`, or `None` to work on arrays only.
        **kwargs: as `keras_hub.models.Task` has them.
    """

    needs_decoder = True
    generation = 2  # of the models that the class is for
    backbone_cls = T5Gemma2Backbone
    preprocessor_cls = T5Gemma2Seq2SeqLMPreprocessor
    presets = presets  # those that `from_preset` knows by name
    # `tasks.pruning.Pruning` of what `prune_vocabulary` gave; it goes into no file.
    pruning: Pruning | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return with_quantize_of_class(super().__new__(cls, *args, **kwargs))

    def __init__(
        self,
        backbone: T5Gemma2Backbone,
        preprocessor: T5Gemma2Seq2SeqLMPreprocessor | None = None,
        **kwargs: Any,
    ) -> None:
        check_constructor(self, kwargs, "compile")
        formats.check_class(type(self), backbone.generation, f"backbone={shown(backbone)}")
        self._check_has_decoder(backbone)
        self.made_in_process = os.getpid()
        backbone.belongs_to(self)
        self.backbone = backbone
        self.preprocessor = preprocessor
        inputs, outputs = self._graph()
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        # On torch, Keras has looked for parameters before there was a module to register them:
        # without this the task would have none, and `DistributedDataParallel` nothing to do.
        compat.register_parameters(self)

    def _check_has_decoder(self, backbone):
        if self.needs_decoder and backbone.decoder is None:
            raise ValueError(
                f"A {type(self).__name__} needs a backbone with a decoder. Received: an encoder "
                "alone, with config.decoder=None. Load a whole model without `encoder_only=True`, "
                "or make a `T5Gemma2TextEmbedder`"
            )

    def _graph(self):
        """The symbolic inputs of the task and its outputs."""
        inputs = self.backbone.input
        return inputs, self.outputs_of(self.backbone(inputs))

    @classmethod
    def _check_given(cls, given, checkpoint):
        """Raises where neither the user nor the files say what the constructor needs."""
        return

    def _load_head(self, checkpoint, given, allow_nonfinite):
        """Reads the weights that are none of the backbone's, of a task that has some."""
        if checkpoint.head_tensors():
            warn(
                f"The head of {checkpoint.path} is left out: a {type(self).__name__} has none of "
                "this kind"
            )

    def _reference_head(self):
        """The `ReferenceHead` of a task that has one, and its variables by path; else `None`."""
        return None

    @property
    def preprocessor(self) -> T5Gemma2Seq2SeqLMPreprocessor | Any:  # `None` is seldom
        """The layer that makes arrays of text and images; may be set to one that fits the backbone.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.preprocessor.tokenizer.vocabulary_size()
        2560
        >>> lm.preprocessor = None  # from now on the task takes and gives token ids
        """
        return super().preprocessor

    @preprocessor.setter
    def preprocessor(self, value: T5Gemma2Seq2SeqLMPreprocessor | None) -> None:
        check_agreement(self.backbone, value)
        keras_hub.models.Task.preprocessor.fset(self, value)

    def get_config(self) -> dict[str, Any]:
        check_are_found(self.backbone, self.preprocessor)
        config = super().get_config()
        if self.adapter_set.configs and not self.adapter_set.is_merged:
            parts = {"configs": self.adapters, "active": self.active_adapter}
            config["adapters"] = {**parts, "in_files": are_apart()}
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        made_by = cls.preprocessor_cls
        made_by = getattr(made_by, "base_of_saved", made_by)
        parts = {"backbone": cls.backbone_cls, "preprocessor": made_by}
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
            adapter_files.add_described(lm.adapter_set, adapters)
        else:
            check_reads_adapters(adapters["configs"])
        return lm

    def __call__(self, inputs: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        return super().__call__(self.backbone.complete(inputs), *args, **kwargs)

    def compute_output_spec(
        self, inputs: Mapping[str, Tensor], training: bool | None = None, mask: Tensor = None
    ) -> Any:
        inputs = self.backbone.complete_spec(inputs)
        return super().compute_output_spec(inputs, training, mask)

    def summary(
        self, *args: Any, print_fn: Callable[..., None] | None = None, **kwargs: Any
    ) -> None:
        """As `keras.Model.summary`; a quantized matrix counts as the one that it stands for.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lines = []
        >>> lm.summary(print_fn=lambda text, **_: lines.append(text))
        >>> "Total params: 2,050,976" in "".join(lines)
        True
        """
        counting.summarize(self, super().summary, *args, print_fn=print_fn, **kwargs)

    def count_params(self) -> int:
        """The number of parameters, a quantized matrix counted as what it stands for.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.quantize("int8")
        >>> lm.count_params()
        2050976
        """
        return counting.parameters(self)

    # Loading ----------------------------------------------------------------------------------

    @classmethod
    def from_preset(
        cls,
        preset: PathLike,
        load_weights: bool = True,
        text_only: bool = False,
        embeddings: EmbeddingTable | None = None,
        quantize: QuantizationMode | Mapping[str, Any] | None = None,
        allow_nonfinite: bool = False,
        encoder_sequence_length: int | None = None,
        decoder_sequence_length: int | None = None,
        encoder_only: bool = False,
        rope_factor: float | None = None,
        **kwargs: Any,
    ) -> Self:
        """The model of a preset or of a published checkpoint, with its preprocessor.

        Args:
            preset: a name of `keras_t5gemma2.presets`, `hf://organization/repository`, a local
                directory in the reference's format, a preset directory, or any other handle
                that keras-hub knows. A preset may also be one of keras-hub's own T5Gemma 2; its
                preprocessor is replaced by one that prepares rows as the reference does.
            load_weights: bool. If false, the weights are random.
            text_only: bool. If true, the vision tower is neither built nor read.
            embeddings: "encoder", "decoder", "mean" or `None`, as `T5Gemma2Backbone` has it.
            quantize: "int8", "int4" or a config, or a dict of arguments of `quantize`: weights
                of floats are quantized one by one as they are read, so that memory for the
                integers is enough.
            allow_nonfinite: bool. Whether weights and adapters may be NaN or infinite; otherwise
                they are refused, with the name of their tensor.
            encoder_sequence_length: int, tokens. The most that the preprocessor lets the encoder
                read, instead of what the model is made for: `max_position_embeddings` of a
                directory in the reference's format, or what a preset says.
            decoder_sequence_length: int, tokens; the same of the decoder.
            encoder_only: bool. If true, the decoder is neither built nor read, for tasks that do
                without.
            rope_factor: float. What layers of full attention divide positions by, to fine-tune
                for longer texts, as `T5Gemma2Backbone` has it. The lengths stay as they are.
            **kwargs: `dtype` of every part, by default Keras's global policy; `preprocessor`
                and further arguments of the constructor.

        Raises:
            FileNotFoundError, PermissionError, ConnectionError: the files cannot be had; the
                message says why and what to do.
            TypeError: there is no such argument; the message names the nearest.
            ValueError: a file is not what it should be; the message names the tensor or key.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2Seq2SeqLM
        >>> lm = cls.from_preset("t5gemma2_tiny", quantize="int8", encoder_sequence_length=32)
        >>> lm.preprocessor.encoder_sequence_length
        32
        """
        check_loading(cls, "from_preset", kwargs, by_preset=("backbone",), more=("compile",))
        lengths = given_lengths(kwargs, encoder_sequence_length, decoder_sequence_length)
        parts = text_only, embeddings, encoder_only, rope_factor
        checkpoint, preset = formats.open_checkpoint(preset, load_weights, *parts, cls=cls)
        if checkpoint is None:
            options = {"quantize": quantize, "allow_nonfinite": allow_nonfinite}
            options |= {"text_only": text_only, "encoder_only": encoder_only}
            options["rope_factor"] = rope_factor
            formats.check_only_keras(preset, embeddings, **options)
            with reading_adapter_files(preset):
                lm = super().from_preset(preset, load_weights, **kwargs)
            if lengths:
                lm.preprocessor.set_lengths(**lengths)
            place, takes = preset, {}
        else:
            task, settings = checkpoint.task(cls)
            if "preprocessor" not in kwargs:
                made = make_task_preprocessor(cls.preprocessor_cls, checkpoint, **lengths)
                kwargs["preprocessor"] = made
            how = load_weights, quantize, allow_nonfinite, kwargs.pop("dtype", None)
            task._check_given({**settings, **kwargs}, checkpoint)
            backbone = load_backbone(cls.backbone_cls.class_of_presets(), checkpoint, *how)
            lm = task(backbone, **{**settings, **kwargs})
            if load_weights:
                lm._load_head(checkpoint, kwargs, allow_nonfinite)
            place, takes = checkpoint.path, {"allow_nonfinite": allow_nonfinite}
        if load_weights:
            adapter_files.load_of_preset(lm.adapter_set, place, **takes)
        return lm

    @classmethod
    def from_gemma3(
        cls,
        encoder: PathLike,
        decoder: PathLike | None = None,
        dtype: DType | None = None,
        text_only: bool = False,
        quantize: QuantizationMode | Mapping[str, Any] | None = None,
        allow_nonfinite: bool = False,
        encoder_sequence_length: int | None = None,
        decoder_sequence_length: int | None = None,
        **kwargs: Any,
    ) -> Self:
        """A model whose encoder and decoder start from Gemma 3, as in the paper.

        With no token for the encoder to see, the decoder is that Gemma 3. RoPE, windows and soft
        caps stay as they are; a vision tower and its projector come along.

        Args:
            encoder: path of a Gemma 3 model, of text or of text and images: a GGUF file (needs the
                extra `gguf`), a directory in the reference's format, or a preset directory of
                keras-hub's Gemma 3.
            decoder: path of another such model of the same width and vocabulary, smaller or
                larger, for the decoder. The embedding table and the tokenizer are this one's.
                By default the encoder's model is also the decoder's.
            dtype: string or `keras.DTypePolicy` of every part.
            text_only: bool. If true, a vision tower is neither built nor read.
            quantize: as `from_preset` has it.
            allow_nonfinite: as `from_preset` has it.
            encoder_sequence_length: as `from_preset` has it. By default what the Gemma 3 model of
                the encoder is made for: its `max_position_embeddings`, the context length of a
                GGUF file, and of a preset 32,768, or 131,072 with scaled positions.
            decoder_sequence_length: as `from_preset` has it, of the decoder's model.
            **kwargs: `preprocessor` and further arguments of the constructor.

        Raises:
            FileNotFoundError: there is no such file, or a part of it is missing.
            ImportError: the extra `gguf` is needed and not installed.
            ValueError: it is no Gemma 3 model, the two models do not fit together, or a file is
                not what it should be.
            TypeError: there is no such argument; the message names the nearest.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_gemma3("gemma-3-270m.gguf")  # doctest: +SKIP
        """
        check_loading(cls, "from_gemma3", kwargs, by_preset=("backbone",), more=("compile",))
        formats.check_class(cls, 2, "a Gemma 3 model, of which comes")
        lengths = given_lengths(kwargs, encoder_sequence_length, decoder_sequence_length)
        checkpoint = Gemma3Checkpoint(encoder, text_only, decoder=decoder)
        if "preprocessor" not in kwargs:
            made = make_preprocessor(cls.preprocessor_cls, checkpoint, **lengths)
            kwargs["preprocessor"] = made
        tokenizer = getattr(kwargs["preprocessor"], "tokenizer", None)
        # Gemma 3 has its image token behind the vocabulary, where T5Gemma 2 has none.
        image_token_id = getattr(tokenizer, "image_token_id", None)
        checkpoint = dataclasses.replace(checkpoint, image_token_id=image_token_id)
        options = True, quantize, allow_nonfinite, dtype
        return cls(load_backbone(T5Gemma2Backbone, checkpoint, *options), **kwargs)

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

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.save_weights(directory / "lm.weights.h5")
        >>> lm.load_weights(directory / "lm.weights.h5")
        """
        options = {"allow_nonfinite": allow_nonfinite, **kwargs}
        saving.load_weights(self, super().load_weights, filepath, *args, **options)

    # Saving -----------------------------------------------------------------------------------

    @by_one_process
    def save_to_preset(self, preset_dir: PathLike, *args: Any, **kwargs: Any) -> None:
        """Saves to a preset directory, whose other files stay.

        The base weights go into Keras's file, and each adapter into a file of `adapters/`. Beside
        them comes a README: the base model, the lines that load it, the metrics of the last epoch
        of `fit`, the licence. One that somebody has edited stays, with a warning. Weights that
        derive from Gemma get the notice that its terms ask for, in NOTICE.

        Where several processes of JAX have a part of the model each, all of them call this.

        Args:
            preset_dir: path of the directory, made if it is not there.
            *args: as the keras-hub class has them.
            **kwargs: as the keras-hub class has them.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.enable_lora(rank=2, name="french")
        >>> lm.save_to_preset(directory)
        >>> keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset(directory).active_adapter
        'french'
        """
        save, adapters = super().save_to_preset, self.adapter_set
        in_files = () if adapters.is_merged else adapters.configs

        def write(directory):
            with adapters_apart():
                save(directory, *args, **kwargs)
            if self.has_task_weights():  # which the backbone has taken for an older save's
                self.save_task_weights(os.path.join(directory, TASK_WEIGHTS))
            if in_files:
                adapter_files.write_all(adapters, directory)

        def finish(directory, place):
            preset_files.finish_preset(directory, self.backbone, in_files)
            preset_files.write_preset_card(directory, place, self, metrics_of(self))

        saving.save_preset(write, preset_dir, _REPLACED_FILES, finish)

    def save(
        self, filepath: PathLike, overwrite: bool = True, zipped: bool | None = None, **kwargs: Any
    ) -> None:
        """As `keras.Model.save`; what is at `filepath` stays until all is written.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.save(directory / "lm.keras")
        >>> keras.saving.load_model(directory / "lm.keras").count_params()
        2050976
        """
        saving.save_model(self, super().save, filepath, overwrite, zipped, **kwargs)

    def save_weights(
        self, filepath: PathLike, overwrite: bool = True, max_shard_size: float | None = None
    ) -> None:
        """As `keras.Model.save_weights`; what is at `filepath` stays until all is written.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.save_weights(directory / "lm.weights.h5")
        >>> sorted(path.name for path in directory.iterdir())
        ['lm.weights.h5']
        """
        saving.save_weights(self, super().save_weights, filepath, overwrite, max_shard_size)

    def save_own_variables(self, store: Any) -> None:
        saving.reserve()  # Keras has just opened the file
        super().save_own_variables(store)

    @by_one_process
    def save_to_keras_hub_preset(self, path: PathLike, max_shard_size: float = 10) -> None:
        """Writes a preset that `keras_hub.models.T5Gemma2Seq2SeqLM.from_preset` loads.

        Its tokenizer is written as a SentencePiece model, and its preprocessor is set to prepare
        rows as this one does, as far as keras-hub's can.

        Args:
            path: path of the directory. What is there stays as it is until all is written.
            max_shard_size: int or float. The largest size of one file of weights, in GiB.

        Raises:
            ValueError: the model has sizes that keras-hub's cannot be given, adapters that are
                not merged, quantized weights, or a tokenizer that is no SentencePiece model and
                cannot be made one exactly.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.save_to_keras_hub_preset(directory)
        >>> (directory / "task.json").exists()
        True
        """
        keras_hub_export.save(path, self.backbone, self, max_shard_size)

    @by_one_process
    def export_to_transformers(
        self,
        path: PathLike,
        dtype: FileDType = None,
        max_shard_size: int | str = "5GB",
        adapters: Literal["merge", "peft"] = "merge",
    ) -> None:
        """Writes a directory that the transformers library loads, laid out as the published ones.

        `AutoModelForImageTextToText.from_pretrained(path)` gives the model, and
        `AutoProcessor.from_pretrained(path)` what makes its inputs; `from_preset(path)` reads the
        directory back, to the bit where `dtype` is `None`. Tensors are written one by one, so
        that little more memory is needed than the model has.

        A text-only model has a vision tower without layers there, since that library knows no
        other, and a tokenizer (`AutoTokenizer`) instead of a processor. The sampling settings are
        those of the published models. A README and, for weights that derive from Gemma, the notice
        that its terms ask for go with them.

        Args:
            path: path of the directory, made if it is not there. Of a directory that is there
                all files of the format are replaced at once, and others stay.
            dtype: "float32", "bfloat16" or "float16" for all weights, or `None` for what each
                one has.
            max_shard_size: int or string such as "5GB". Weights that take more bytes are split
                into several files.
            adapters: "merge" to write weights with what the active adapters add to them, which
                leaves the task as it is; or "peft" to write the base weights, and each adapter
                in the peft library's format into a directory of its own, as in
                `path/adapters/default`.

        Raises:
            ValueError: the format has no place for a size or rule of this model, which the
                message names; a weight does not fit into `dtype`; the model is quantized; or
                adapters are merged into the base weights that are asked for.
            NotADirectoryError: a file is in the way.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.export_to_transformers(directory, dtype="bfloat16")
        >>> keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset(directory).count_params()
        2050976
        """
        if adapters not in ("merge", "peft"):
            raise ValueError(
                f"`adapters` must be 'merge' or 'peft'. Received: adapters={shown(adapters)}"
            )
        configs = None
        if adapters == "peft":
            self.adapter_set.check_not_merged("the base weights are exported")
            configs = self.adapter_set.configs
        transformers_writer.write_transformers(
            path,
            self.backbone,
            self.preprocessor,
            dtype,
            max_shard_size,
            configs,
            metrics_of(self),
            head=self._reference_head(),
        )

    @by_one_process
    def push_to_hub(
        self, repo_id: str, private: bool | None = None, commit_message: str | None = None
    ) -> Any:
        """Saves the task as a preset and uploads it to the Hugging Face hub.

        `from_preset("hf://organization/name")` loads it. With it come a README (base model, the
        lines that load it, the metrics of the last epoch of `fit`, licence) and, for weights that
        derive from Gemma, the notice that its terms ask for. A README on the hub that somebody
        has edited stays, with a warning. Log in before, by `hf auth login` or with HF_TOKEN.

        Args:
            repo_id: string, "organization/name". The repository is made if it is not there.
            private: bool. Whether a new repository is private; by default as the account has it.
            commit_message: string.

        Returns:
            What the hub says of the commit, `huggingface_hub.CommitInfo`.

        Raises:
            ValueError: `repo_id` is no name of a repository.
            PermissionError, ConnectionError: the hub refuses, or is not reached.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.push_to_hub("me/french", private=True)  # doctest: +SKIP
        """
        return hub_upload.push(self, repo_id, private, commit_message, _REPLACED_FILES)

    def export(
        self,
        filepath: PathLike,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        *,
        batch_size: int | None = None,
        encoder_length: int | None = None,
        decoder_length: int | None = None,
        prompt_length: int = 1,
        images: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Writes the model for a runtime that generates without Keras and without this package.

        It is three functions, each from a dict of tensors to another; B stands for `batch_size`:

        - `encode` takes `encoder_token_ids` and `encoder_padding_mask`, (B, encoder_length)
          int32 and padded at the right, and of a model that sees `images` (B, images, height,
          width, 3) float32 in [-1, 1]. It gives what the decoder sees of them: tensors whose
          names begin with `memory_`.
        - `prefill` takes these, and `decoder_token_ids` and `decoder_padding_mask`, (B,
          prompt_length) int32 and padded at the left. It gives `logits` (B, vocabulary) float32
          of the next token, and the cache: tensors whose names begin with `cache_`.
        - `step` takes the tensors of `encode`, those of the cache, and `token_ids` (B,) int32,
          the tokens that were chosen. It gives the next `logits` and the cache; that which it got
          may have been written to.

        With `strings=True`, on TensorFlow, a fourth one takes strings and gives strings: `generate`
        of a (rows,) tensor of texts gives `outputs`, the texts that `lm.generate` would write
        greedily without images, and their `token_ids`, with the tokenizer and the loop inside.
        It needs a vocabulary in a SentencePiece file, which is tried on 4,000 texts; and what
        loads it has to import `tensorflow_text`. Texts that are longer than the preprocessor's
        `encoder_sequence_length` are an error. Bytes that are no UTF-8 may be shown by another
        number of replacement characters.

        Active adapters, quantized weights and a cache in int8 are a part of them. Rows whose
        images are fewer than `images` are filled up with any others: only as many are looked at
        as a row has image tokens for.

        | format | backend | what is written | sizes |
        | --- | --- | --- | --- |
        | "tf_saved_model" | TensorFlow | a directory | any batch, encoder length and images |
        | "tf_saved_model" | JAX | a directory | any batch; the others are fixed |
        | "litert" | TensorFlow | a `.tflite` file with three signatures | fixed |
        | "torch" | PyTorch | a directory of `encode.pt2`, `prefill.pt2`, `step.pt2` | fixed |
        | "onnx" | PyTorch | a directory of `encode.onnx`, `prefill.onnx`, `step.onnx` | fixed |
        | "jax" | JAX | a directory of `encode.PLATFORM.jax` and the like, and of weights | fixed |

        "onnx" needs the extra `onnx` and a model that computes in float32. `onnxruntime` runs the
        files; it takes an `int64` for no `int32`, and leaves the cache that it gets as it was. No
        two tensors of ONNX have one name: what `step` gives of the cache is named as what it takes,
        with `new_` before it, as in `new_cache_index`. Quantized weights stay integers, in nodes of
        onnxruntime's own, `MatMulNBits`; they are of 8 or 4 bits, in columns or in blocks of a
        multiple of 16. The table is there once, and is looked up as integers too.

        Programs of JAX are made for the platforms that are named, of which none need be there. With
        JAX alone, `encode = jax.export.deserialize(file.read_bytes()).call` reads one, and takes
        the weights before the tensors: `encode(safetensors.flax.load_file("model.safetensors"),
        {"encoder_token_ids": ids, "encoder_padding_mask": mask})`.

        Args:
            filepath: path of the file or directory. What is there stays until all is written.
            format: string, as in the table.
            verbose: bool or `None`. Whether to say that it is done; by default it is said.
            input_signature: as `keras.Model.export` has it. If it is given, that is called, which
                writes the one function from the arrays of the preprocessor to all logits, and
                the arguments below are not read.
            batch_size: int. Rows; `None` for any.
            encoder_length: int. Tokens of the encoder; `None` for any.
            decoder_length: int. Tokens of the decoder's prompt and new tokens, which the cache
                has room for. By default a prompt and 256 new tokens, and no more than the
                preprocessor's `decoder_sequence_length`.
            prompt_length: int. Tokens of the decoder's prompt; the start token is one.
            images: int. Images and crops of each row; 0 for none, `None` for any.
            **kwargs: for "tf_saved_model", `strings`, a bool;
                for "litert", attributes of TensorFlow's converter, such as `optimizations`;
                for "jax", `platforms`, a list among "cpu", "cuda", "rocm" and "tpu", by default
                of the one at hand; for "onnx" of a quantized model, `accuracy_level`: 0, the
                default, computes with inputs in floats, and 4 rounds them to 8 bits, which is
                quicker with weights of 8 bits and may write other tokens.

        Raises:
            ValueError: the backend cannot write the format, a size is missing or not possible,
                or the format has no place for this model; the message says which.
            ImportError: TensorFlow is needed and not installed.

        Example: greedy text by TensorFlow alone.

        >>> import tensorflow as tf
        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny", text_only=True)
        >>> path = str(directory / "exported")
        >>> lm.export(path, batch_size=1, encoder_length=32, decoder_length=16, verbose=False)
        >>> model = tf.saved_model.load(path)
        >>> # The ids come from the preprocessor, or any program that reads its tokenizer's file.
        >>> x = lm.preprocessor.generate_preprocess("Write 2026-12-17 in French.")
        >>> ids = x["encoder_token_ids"][None]
        >>> mask = x["encoder_padding_mask"][None].astype("int32")
        >>> memory = model.encode({"encoder_token_ids": ids, "encoder_padding_mask": mask})
        >>> start = np.full((1, 1), 2, "int32")
        >>> prompt = {"decoder_token_ids": start, "decoder_padding_mask": start * 0 + 1}
        >>> state, new = model.prefill({**prompt, **memory}), []
        >>> while len(new) < 15 and 1 not in new:
        ...     token = tf.argmax(state.pop("logits"), axis=-1, output_type=tf.int32)
        ...     new.append(int(token[0]))
        ...     state = model.step({"token_ids": token, **memory, **state})
        >>> lm.preprocessor.tokenizer.detokenize(new)
        '17 décembre 2026<eos>'
        """
        filepath = local_path(filepath)
        if input_signature is not None:
            with short_errors():
                return super().export(filepath, format, verbose, input_signature, **kwargs)
        sizes = runtimes.Sizes(batch_size, encoder_length, prompt_length, decoder_length, images)
        runtimes.export(self, filepath, format, sizes, kwargs)
        if verbose is None or verbose:
            print(f"Saved artifact at '{filepath}'.")

    # Adapters ---------------------------------------------------------------------------------

    @property
    def adapters(self) -> dict[str, dict[str, Any]]:
        """Dict of the adapters' configurations, plain JSON each, by name.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.enable_lora(rank=2, name="french")
        >>> lm.adapters["french"]["rank"]
        2
        """
        return self.adapter_set.described()

    @property
    def active_adapter(self) -> str | dict[str, float] | None:
        """The name of the one active adapter, a dict of weights of a sum of several, or `None`.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.enable_lora(rank=2, name="french")
        >>> lm.active_adapter
        'french'
        """
        return self.adapter_set.active

    def enable_lora(
        self,
        rank: int,
        alpha: float | None = None,
        dropout: float = 0.0,
        target: str | Sequence[str] = "text",
        use_rslora: bool = False,
        use_dora: bool = False,
        name: str = "default",
        rank_pattern: Mapping[str, int] | None = None,
        alpha_pattern: Mapping[str, float] | None = None,
        init: AdapterStart | None = None,
        data: Inputs | None = None,
        base: PathLike | Any = None,
        lora_plus: float | None = None,
    ) -> None:
        """Adds an adapter, makes it the active one, and freezes all other weights.

        From then on `fit` trains the adapter alone: y = x W + scale * (drop(x) A) B on each
        layer of `target`, which starts as y = x W. Norms, the embedding table, the end-of-image
        vector and the vision tower are frozen. The optimizer starts anew: the one of `compile`,
        or, where none was named there, AdamW with a rate for adapters, which is logged.

        Args:
            rank: int. Columns of A and rows of B, 4 to 64 say.
            alpha: float. The scale is alpha / rank. By default `rank`, so that the scale is 1.
            dropout: float. Of the adapter's input, in training.
            target: "text" for the projections (query, key, value, output, gate, up, down) of
                every layer of encoder and decoder; a list of some of these names, or of whole
                paths; or a regular expression that the whole path of a layer must match, such
                as `"decoder/.*/(query|value)"`. Never the vision tower or the embedding table.
            use_rslora: bool. Whether the scale is alpha / sqrt(rank), for high ranks.
            use_dora: bool. Whether the lengths of the columns of W + scale * A B are trained
                on their own.
            name: string. Of the adapter, where there are several.
            rank_pattern: dict of the ranks of layers that have another than `rank`. Its keys are
                as in `target`: a name, a whole path, or a regular expression that a whole path
                must match; the first one that means a layer counts. A layer of rank 0 gets no
                adapter.
            alpha_pattern: dict of other values of `alpha`, in the same way. The scale of a layer
                is its alpha / its rank.
            init: what A and B start as, of which the outputs are the base model's but for "loftq":

                - `None`: A random, B zeros.
                - "orthogonal": both random, in the two halves of a basis; for even ranks.
                - "pissa": the largest singular values of the kernel, and "olora": the first
                  columns of its QR decomposition. The kernel stays as it is, and what it gave is
                  taken out again beside it: files of the adapter are of twice the rank.
                - "eva": A from the inputs that the layers have on `data`, in the directions in
                  which they vary most. The ranks, too, go by that; their sum and the scales stay.
                - "loftq": the best approximation of what `quantize` takes from the kernels, for
                  int8, int4 and fp8. Call `quantize` afterwards; or give `base` where the model is
                  quantized already. What rounding takes has almost full rank: of
                  `t5gemma2_tiny` at 4 bits, whose loss is 0.0060 off then, rank 8 leaves 0.0041
                  and rank 16 0.0029. On a few rows alone it may come out otherwise.
            data: rows as `fit` takes them, some hundreds, for "eva".
            base: for "loftq" what the model was before it was quantized: a preset, or the model;
                by default the preset that its weights derive from.
            lora_plus: float. How many times the step of A the step of B is, as in LoRA+
                (arXiv 2402.12354), 16 say: the learning rate of the optimizer is that of A. It
                holds in `fit` and `train_on_batch`, for any optimizer.

        Raises:
            ValueError: there is such an adapter, the adapters are merged, `target` or a key of a
                pattern means no layer or one that takes no adapter, or a value is out of range.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.enable_lora(rank=2, target=["query"])
        >>> lm.trainable_variables[0].path
        'encoder/layer_0/attention/query/default_lora_a'
        """
        rules = rank, alpha, dropout, target, use_rslora, use_dora
        patterns = rank_pattern or {}, alpha_pattern or {}
        config = LoRAConfig(*rules, *patterns, init, 1 if lora_plus is None else lora_plus)
        with self.adapter_set.as_before_if_it_fails():
            starts.add_adapter(self, name, config, data, base)
            self.adapter_set.choose(name)

    def set_adapter(self, adapter: str | Mapping[str, float] | None) -> None:
        """Chooses the adapter that computes and trains.

        The optimizer starts anew where another adapter is to be trained.

        Args:
            adapter: name of the one adapter; `None` for the base model; or a dict from names to
                weights: the outputs of each layer then are those of the base plus the weighted
                sum of what each adapter adds, and none is trained.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.enable_lora(rank=2, name="french")
        >>> lm.enable_lora(rank=2, name="formal")
        >>> lm.set_adapter({"french": 0.5, "formal": 1.0})
        >>> lm.active_adapter
        {'french': 0.5, 'formal': 1.0}
        """
        self.adapter_set.choose(adapter)

    def remove_adapter(self, name: str) -> None:
        """Removes an adapter. With the last one goes all that `enable_lora` did.

        Args:
            name: string.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.enable_lora(rank=2)
        >>> lm.remove_adapter("default")
        >>> lm.adapters
        {}
        """
        self.adapter_set.remove(name)

    def merge_adapter(self) -> None:
        """Puts the active adapter, or the weighted sum, into the base weights.

        The outputs stay the same to rounding, and take no longer than those of the base. The
        adapters are kept, but are neither trained nor switched until `unmerge_adapter`; what is
        saved meanwhile is a model without adapters.

        Weights of a quantized model are turned into floats, merged, and quantized again, with new
        scales. That is a coarser rounding: of 4 bits, much of what a weak adapter adds can get
        lost, so evaluate the merged model, or leave the adapters beside. The integers of before
        are kept for `unmerge_adapter`.

        Raises:
            ValueError: there is no active adapter, the adapters are merged already, or weights
                are those of GPTQ or AWQ, which only a calibration can make.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.enable_lora(rank=2)
        >>> lm.merge_adapter()
        >>> lm.save_to_preset(directory)
        >>> (directory / "adapters").exists()
        False
        """
        self.adapter_set.merge()

    def unmerge_adapter(self) -> None:
        """Takes the adapters out of the base weights, which are as before to rounding.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.enable_lora(rank=2)
        >>> lm.merge_adapter()
        >>> lm.unmerge_adapter()
        >>> lm.active_adapter
        'default'
        """

        self.adapter_set.unmerge()

    @by_one_process
    def save_adapter(self, path: PathLike, name: str = "default") -> None:
        """Writes one adapter to one small file, with its configuration.

        Beside it comes a text about it, `french.md` say, with its base model, the lines that load
        it and the terms it is shared under. One that somebody has edited stays, with a warning.

        Args:
            path: path of the file, `french.safetensors` say; replaced whole or not at all.
            name: string.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.enable_lora(rank=2)
        >>> lm.save_adapter(directory / "french.safetensors")
        >>> sorted(path.name for path in directory.iterdir())
        ['french.md', 'french.safetensors']
        """
        adapter_files.write(self.adapter_set, path, name)
        card = stored_adapters.adapter_card(path, self.adapters[name], self.backbone.source)
        cards.write_card_beside(path, dataclasses.replace(card, metrics=metrics_of(self)))

    def load_adapter(
        self, path: PathLike, name: str = "default", allow_nonfinite: bool = False
    ) -> None:
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

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.enable_lora(rank=2)
        >>> lm.save_adapter(directory / "french.safetensors")
        >>> lm.load_adapter(directory / "french.safetensors", name="french")
        >>> list(lm.adapters)
        ['default', 'french']
        """
        adapter_files.load(self.adapter_set, path, name, allow_nonfinite)

    @by_one_process
    def save_peft_adapter(
        self,
        directory: PathLike,
        name: str = "default",
        format: Literal["lora", "adalora"] = "lora",
    ) -> None:
        """Writes one adapter in the format of the peft library.

        `peft.PeftModel.from_pretrained(model, directory)` reads it, for the reference's model. A
        README goes with it, and for weights of Gemma the notice that its terms ask for.

        Args:
            directory: path of the directory, made if it is not there.
            name: string.
            format: "lora", which any adapter can be written as: after `AdaptiveRank` with the rank
                of each layer, after `init="pissa"` with twice the rank. Or "adalora" for an
                adapter of `AdaptiveRank`, as peft's AdaLoRA.

        Raises:
            ValueError: there is no such adapter or format, or the adapter has no triplets.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.enable_lora(rank=2)
        >>> lm.save_peft_adapter(directory)
        >>> sorted(path.name for path in directory.iterdir())
        ['README.md', 'adapter_config.json', 'adapter_model.safetensors']
        """
        if format != "lora":
            adapter_files.write_adalora(self.adapter_set, directory, name, format, metrics_of(self))
            return
        stored = adapter_files.stored(self.adapter_set, name)
        peft.write_peft_adapter(directory, stored, self.backbone, metrics=metrics_of(self))

    def load_peft_adapter(
        self, directory: PathLike, name: str = "default", allow_nonfinite: bool = False
    ) -> None:
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

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.enable_lora(rank=2)
        >>> lm.save_peft_adapter(directory)
        >>> lm.load_peft_adapter(directory, name="french")
        >>> list(lm.adapters)
        ['default', 'french']
        """
        stored = peft.read_peft_adapter(directory, self.backbone)
        adapter_files.take(self.adapter_set, name, stored, directory, allow_nonfinite)

    # Integers ---------------------------------------------------------------------------------

    def quantize(
        self,
        mode: QuantizationMode | None = None,
        config: keras.quantizers.QuantizationConfig | None = None,
        filters: LayerFilters | None = None,
    ) -> None:
        """Makes the matrices of both stacks, and the embedding table, ones of integers.

        See `T5Gemma2Backbone.quantize`. Adapters stay beside the matrices, and can be added and
        trained on them as ever; those that are merged become a part of the weights for good. The
        optimizer starts anew.

        Args:
            mode: "int8", "int4", another of the names that `T5Gemma2Backbone.quantize` knows, or a
                config of `keras.quantizers`. After `prepare_qat` by default what was said there.
            config: such a config.
            filters: regular expressions of the paths of layers, or a function of a layer.

        Raises:
            ValueError: there is no such mode, or nothing left that it could quantize.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.quantize("int4", filters="^(encoder|decoder)/")
        >>> lm.quantize("int8", filters="^embedder/")
        >>> sorted(set(lm.backbone.quantized_layers.values()))
        ['int4/32', 'int8']
        """
        before = self.backbone.quantized_layers
        try:
            self.backbone.quantize(mode, config, filters)
        finally:  # interrupted, it has changed a part of the layers
            if self.backbone.quantized_layers != before:
                self.adapter_set.keep_merged()
                compat.finish_quantizing(self, self.dtype_policy.quantization_mode)
                self.adapter_set.forget_programs()
                self.adapter_set.reset_optimizer()

    def prepare_qat(
        self,
        mode: QuantizationMode | None = None,
        config: keras.quantizers.QuantizationConfig | None = None,
        filters: LayerFilters | None = None,
    ) -> None:
        """Prepares quantization-aware training: `fit` learns weights that rounding does not hurt.

        From now on all calls compute with what `quantize` would make of the matrices: the rounded
        weights of training are those of the quantized model bit for bit. Gradients go to the
        floats behind them, and are 0 where a number is out of the range of its codes. Teach it
        with `fit(rows, distillation=Distillation(teacher))`, the teacher being the model as it
        was, and call `quantize()`, without a mode, in the end. It is no part of any file: call it
        again after loading.

        Args:
            mode: as `quantize` has it, such as "int8", "int4", "int4/-1" for one scale a column,
                "q4_0", "int4_sym/32" or "fp8".
            config: a `keras.quantizers` config of int8 or int4.
            filters: which layers, as `quantize` has it.

        Raises:
            ValueError: there is no such mode, it is calibrated, or no layer is meant.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> teacher = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> rows = {"encoder_text": ["Spell 7 in Dutch."], "decoder_text": ["zeven"]}
        >>> lm.prepare_qat("int4/-1")
        >>> learning = keras_t5gemma2.Distillation(teacher, num_samples=64)
        >>> history = lm.fit(rows, distillation=learning, verbose=0)
        >>> before = lm.score(rows)
        >>> lm.quantize()
        >>> bool(np.allclose(lm.score(rows), before, atol=1e-4))
        True
        """
        self.backbone.prepare_qat(mode, config, filters)
        self.adapter_set.forget_programs()

    def get_quantization_layer_structure(self, mode: str) -> dict[str, Any] | None:
        return self.backbone.get_quantization_layer_structure(mode)

    # The vocabulary ---------------------------------------------------------------------------

    def prune_vocabulary(
        self,
        texts: Inputs | None = None,
        languages: Sequence[str] | None = None,
        keep: Iterable[int] | None = None,
        size: int | None = None,
        held_out: Inputs | None = None,
        columns: ColumnNames | None = None,
    ) -> Self:
        """A new model whose embedding table and tokenizer hold only what a job needs.

        This model stays as it is, and nothing is shared: while both are there, so are the weights
        of both. The table is most of a small model, and a step of decoding reads all of it, so
        that few tokens make a step much quicker.

        Text of tokens that are kept has the same tokens, with new ids in the order of the old
        ones, and the same logits, from which the others are missing. Any other text is spelled
        with what is left, in bytes at worst. Beside the tokens that are asked for, these stay:
        special, image, turn and byte tokens, the first 100 sentinels of `infill`, what
        all of these and the kept ones are merged of, and with `texts` or `languages` ASCII and
        common punctuation. Of a large vocabulary the number is a multiple of 8.

        The new model is of the same class, has the same preprocessor with another tokenizer,
        quantized weights as they are, the adapters, whose files fit both models, and is compiled
        like this one with an optimizer that starts anew. Merged adapters have become a part of
        its weights. Files that are saved of it hold the smaller vocabulary in every format.

        Args:
            texts: the texts of the job, or rows as `fit` takes them, of which the texts of both
                sides count. All of their tokens are kept, or with `size` the most frequent.
            languages: list of codes such as `["en", "de"]`: the tokens of their 40,000 most
                frequent words. Needs the extra `languages`.
            keep: ids of this model's tokenizer that are kept in any case.
            size: int. The most tokens of the new model. The most frequent are kept.
            held_out: texts or rows that say what is lost: see `pruning.losses` of the result.
            columns: as `fit` has it, for `texts` and `held_out`.

        Returns:
            The new model. Its attribute `pruning` says which tokens were kept (`kept_ids`), how
            many tokens and parameters there were and are, and what is lost (`losses`).

        Raises:
            ValueError: there is no preprocessor, nothing says what is kept, an id is not in the
                vocabulary, `size` is less than what is kept in any case, or a language is not
                known.
            ImportError: `languages` needs a library that is not installed.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.compile(sampler="greedy")
        >>> rows = {"encoder_text": ["Spell 42 in German."], "decoder_text": ["zweiundvierzig"]}
        >>> small = lm.prune_vocabulary(rows)
        >>> small.pruning.tokens_before, small.pruning.tokens_after < 500
        (2560, True)
        >>> small.generate("Spell 42 in German.", max_new_tokens=16)
        'zweiundvierzig'
        """
        return vocabulary.prune(self, texts, languages, keep, size, held_out, columns)

    def extend_vocabulary(
        self, tokens: Sequence[str], init: Literal["mean"] | Tensor = "mean"
    ) -> Self:
        """A new model with further tokens, which are found in a text as they stand.

        This model stays as it is, as with `prune_vocabulary`, whose result takes over the same
        things. The new tokens follow the last one of the tokenizer. Text without any of them has
        the same tokens as before; where one stands, also inside of a word, it is one token.

        Args:
            tokens: list of strings without spaces, none of which is a token yet.
            init: "mean": the row of a token is the mean of the rows of the tokens that have
                spelled it so far. Or an array (tokens, hidden_dim); of a T5Gemma 1 a
                pair of them, for the table of the encoder and for that of the decoder.

        Returns:
            The new model.

        Raises:
            ValueError: there is no preprocessor; a token is empty, holds a space, is there
                already or comes twice; or `init` is no such array.
            TypeError: a token is no string.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> larger = lm.extend_vocabulary(["tokenizer"])
        >>> len(lm.preprocessor.tokenizer("tokenizer")) > 1
        True
        >>> larger.preprocessor.tokenizer("a tokenizer")[-1]
        2560
        """
        return vocabulary.extend(self, tokens, init)
