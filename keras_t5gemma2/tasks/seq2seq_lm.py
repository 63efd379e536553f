"""The task: text and images in, text out; trained with `fit`, run with `generate`."""

import dataclasses
import functools
import os

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_t5gemma2.arguments import check_constructor, check_loading
from keras_t5gemma2.checkpoints import formats
from keras_t5gemma2.checkpoints.gemma3 import reader as gemma3
from keras_t5gemma2.checkpoints.keras_hub import writer as keras_hub_export
from keras_t5gemma2.checkpoints.own import files as preset_files
from keras_t5gemma2.checkpoints.saving import (
    LoadsFiniteWeights,
    SavesAtomically,
    SavesWhole,
    by_one_process,
    reading_adapter_files,
)
from keras_t5gemma2.checkpoints.sources import is_of_gemma, source_of, source_of_gemma3
from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.generation import finite
from keras_t5gemma2.generation.generator import Generator
from keras_t5gemma2.generation.infilling import infill
from keras_t5gemma2.generation.samplers import check_temperature
from keras_t5gemma2.generation.streaming import stream
from keras_t5gemma2.generation.warmup import warmup
from keras_t5gemma2.messages import shown
from keras_t5gemma2.model.backbone import T5Gemma2Backbone
from keras_t5gemma2.model.quantize import load_quantized
from keras_t5gemma2.options import checked
from keras_t5gemma2.preprocessing.columns import Columns
from keras_t5gemma2.preprocessing.cuts import Cuts, one_warning
from keras_t5gemma2.preprocessing.preprocessor import T5Gemma2Seq2SeqLMPreprocessor
from keras_t5gemma2.preprocessing.sources import are_arrays, read_rows, unpack
from keras_t5gemma2.quantization.counting import SummarizesParameters
from keras_t5gemma2.registry import presets
from keras_t5gemma2.sharding.batch import of_rows
from keras_t5gemma2.tasks.agreement import check_agreement
from keras_t5gemma2.tasks.exporting import Exports
from keras_t5gemma2.tasks.quantizing import QuantizesBackbone
from keras_t5gemma2.training.checkpoint import with_places
from keras_t5gemma2.training.distillation import sample_rows
from keras_t5gemma2.training.grouping import check_grouping
from keras_t5gemma2.training.image_features import with_features
from keras_t5gemma2.training.in_memory import InMemoryBatches
from keras_t5gemma2.training.joining import JoinsLogits
from keras_t5gemma2.training.preparation import Preparation
from keras_t5gemma2.training.rates import StepsLogRates, with_rates
from keras_t5gemma2.training.reporting import reporting_steps
from keras_t5gemma2.training.sources import batches_of, reading
from keras_t5gemma2.training.token_loss import TrainsWithoutLogits
from keras_t5gemma2.vocabulary.sentinels import FIRST_SENTINEL


def _refuse_to_be_cloned(lm):
    raise ValueError(
        "`clone_model` would make a plain model of the task, without `generate`, and whose logits "
        f"are untied from the embedding table. Received: a {type(lm).__name__}. Call "
        "`type(lm)(type(lm.backbone).from_config(lm.backbone.get_config()), lm.preprocessor)`, and "
        "`set_weights(lm.get_weights())` for the same weights"
    )


@compat.asked_before_cloning(_refuse_to_be_cloned)
@keras.saving.register_keras_serializable(package="keras_t5gemma2")
# Torch's compiler goes through a step of Keras's trainer piece by piece, for minutes.
@compat.never_torch_compiled
class T5Gemma2Seq2SeqLM(
    SavesAtomically,
    SavesWhole,
    LoadsFiniteWeights,
    QuantizesBackbone,
    Exports,
    StepsLogRates,
    TrainsWithoutLogits,
    JoinsLogits,
    SummarizesParameters,
    keras_hub.models.Seq2SeqLM,
):
    """A T5Gemma 2 model that reads text and images and writes text.

    Called on the arrays that its preprocessor makes (see `T5Gemma2Backbone` for the keys), it
    gives logits of (batch, decoder length, vocabulary). `generate`, `fit`, `evaluate` and
    `predict` take raw text and images.

    Args:
        backbone: `T5Gemma2Backbone`.
        preprocessor: `T5Gemma2Seq2SeqLMPreprocessor`, or `None` to work on arrays only.
        cross_attention_cache: "auto", "projected" or "shared", what `generate` keeps of the
            encoder's output; see the attribute.
        cache_dtype: "auto" or "int8", how `generate` stores what it keeps; see the attribute.
    """

    backbone_cls = T5Gemma2Backbone
    preprocessor_cls = T5Gemma2Seq2SeqLMPreprocessor
    presets = presets  # those that `from_preset` knows by name
    _replaced_files = (
        *("model*.weights.h5", "model.weights.json", "task.weights.h5"),
        "adapters/*.safetensors",
    )

    def __init__(
        self,
        backbone,
        preprocessor=None,
        cross_attention_cache="auto",
        cache_dtype="auto",
        **kwargs,
    ):
        check_constructor(self, kwargs, "compile")
        self.made_in_process = os.getpid()
        backbone.belongs_to(self)
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.generator = Generator(self, None, cross_attention_cache, cache_dtype)
        inputs = backbone.input
        hidden = backbone(inputs)["decoder_sequence_output"]
        super().__init__(inputs=inputs, outputs=self.logits(hidden), **kwargs)
        # On torch, Keras has looked for parameters before there was a module to register them:
        # without this the task would have none, and `DistributedDataParallel` nothing to do.
        compat.register_parameters(self)

    @property
    def preprocessor(self):
        """What makes arrays of text and images; settable, to one that fits the backbone."""
        return super().preprocessor

    @preprocessor.setter
    def preprocessor(self, value):
        check_agreement(self.backbone, value)
        keras_hub.models.Task.preprocessor.fset(self, value)

    def get_config(self):
        return {
            **super().get_config(),
            "cross_attention_cache": self.cross_attention_cache,
            "cache_dtype": self.cache_dtype,
        }

    def logits(self, hidden):
        """(..., vocabulary) logits of (..., hidden_dim) outputs of the decoder."""
        return self.backbone.token_embedding(hidden, reverse=True)

    def __call__(self, inputs, *args, **kwargs):
        return super().__call__(self.backbone.complete(inputs), *args, **kwargs)

    def compute_output_spec(self, inputs, training=None, mask=None):
        inputs = self.backbone.complete_spec(inputs)
        return super().compute_output_spec(inputs, training, mask)

    # Loading ----------------------------------------------------------------------------------

    @classmethod
    def from_preset(
        cls,
        preset,
        load_weights=True,
        text_only=False,
        embeddings=None,
        quantize=None,
        allow_nonfinite=False,
        encoder_sequence_length=None,
        decoder_sequence_length=None,
        **kwargs,
    ):
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
            **kwargs: `dtype` of every part, by default Keras's global policy; `preprocessor`
                and further arguments of the constructor.

        Raises:
            FileNotFoundError, PermissionError, ConnectionError: the files cannot be had; the
                message says why and what to do.
            TypeError: there is no such argument; the message names the nearest.
            ValueError: a file is not what it should be; the message names the tensor or key.
        """
        check_loading(cls, "from_preset", kwargs, by_preset=("backbone",), more=("compile",))
        handle = preset
        lengths = formats.given_lengths(
            kwargs,
            encoder_sequence_length=encoder_sequence_length,
            decoder_sequence_length=decoder_sequence_length,
        )
        directory, preset = formats.locate(preset, load_weights)
        if directory is None:
            options = {"quantize": quantize, "allow_nonfinite": allow_nonfinite}
            formats.check_only_keras(preset, embeddings, text_only=text_only, **options)
            with reading_adapter_files(preset):
                lm = super().from_preset(preset, load_weights, **kwargs)
            for name, value in lengths.items():
                setattr(lm.preprocessor, name, value)
            return lm._load_preset_adapters(preset) if load_weights else lm
        task, settings = formats.task_settings(cls, directory)
        if "preprocessor" not in kwargs:
            kwargs["preprocessor"] = formats.load_task_preprocessor(
                cls.preprocessor_cls, directory, text_only, **lengths
            )
        places = directory, load_weights, text_only, embeddings, allow_nonfinite
        options = {
            "dtype": kwargs.pop("dtype", None),
            "source": source_of(handle, directory) if load_weights else None,
        }
        load = functools.partial(formats.load_backbone, *places, **options)
        backbone = load_quantized(load, load_weights, quantize)
        lm = task(backbone, **{**settings, **kwargs})
        return lm._load_preset_adapters(directory, allow_nonfinite) if load_weights else lm

    @classmethod
    def from_gemma3(
        cls,
        encoder,
        decoder=None,
        dtype=None,
        text_only=False,
        quantize=None,
        allow_nonfinite=False,
        encoder_sequence_length=None,
        decoder_sequence_length=None,
        **kwargs,
    ):
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
        """
        check_loading(cls, "from_gemma3", kwargs, by_preset=("backbone",), more=("compile",))
        lengths = formats.given_lengths(
            kwargs,
            encoder_sequence_length=encoder_sequence_length,
            decoder_sequence_length=decoder_sequence_length,
        )
        if "preprocessor" not in kwargs:
            kwargs["preprocessor"] = gemma3.load_gemma3_preprocessor(
                cls.preprocessor_cls, encoder, decoder, text_only, **lengths
            )
        tokenizer = getattr(kwargs["preprocessor"], "tokenizer", None)
        # Gemma 3 has its image token behind the vocabulary, where T5Gemma 2 has none.
        image_token_id = getattr(tokenizer, "image_token_id", None)
        places = encoder, decoder, dtype, text_only
        options = {
            "image_token_id": image_token_id,
            "allow_nonfinite": allow_nonfinite,
            "source": source_of_gemma3(encoder),
        }
        load = functools.partial(gemma3.load_gemma3, *places, **options)
        backbone = load_quantized(load, True, quantize)
        return cls(backbone, **kwargs)

    @by_one_process
    def save_to_keras_hub_preset(self, path, max_shard_size=10):
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
        """
        keras_hub_export.save(path, self.backbone, self, max_shard_size)

    def _finish_preset(self, directory, place):
        in_files = () if self._is_merged else self._adapter_configs
        preset_files.finish_preset(directory, self.backbone, in_files)
        preset_files.write_preset_card(directory, place, self, self._metrics_of_fit())

    # Training ---------------------------------------------------------------------------------

    def compile(self, *args, **kwargs):
        """As keras-hub has it. On torch, `jit_compile=True` compiles what generates a token.

        That takes a minute or so for each size of input that `generate` or `stream` meets, and
        needs what `torch.compile` needs, such as a C++ compiler; each token is quicker then.
        Training, evaluation and the encoder run as without it.
        """
        super().compile(*args, **kwargs)
        check_temperature(self.sampler)

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        sample_weight=None,
        validation_data=None,
        validation_split=None,
        validation_batch_size=None,
        class_weight=None,
        shuffle=True,
        group_by_length=None,
        distillation=None,
        columns=None,
        **kwargs,
    ):
        """Trains on raw text and images, or on what the preprocessor makes of them.

        Rows in memory are checked before the first step, all others when they are read. A batch
        is padded to its longest row, rounded up to 32, 48, 64, 96, 128, 192, ... tokens, and to 0,
        1, 2, 4, 8, ... images, so that few programs are compiled.

        Beside the loss and the metrics, logs and the history have the `learning_rate` of the last
        step and `tokens_per_second`: tokens of the encoder's and the decoder's inputs, images
        included and padding left out, of rows that weigh anything, over the time since the epoch
        began. The first epoch compiles; validation is not counted.

        Args:
            x: dict of `encoder_text`, `decoder_text` and, optionally, `images`, a value per row;
                a list or other sequence of such dicts of single rows; a data frame, or a
                `Dataset` of `datasets`; a list of texts, with their targets as `y`; or a
                `keras.utils.PyDataset`, `tf.data` or grain data set, torch `DataLoader`,
                `IterableDataset` or generator, over batches or over rows, whose elements may be
                tuples (x, y) or (x, y, sample_weight). Each may also hold arrays as the
                preprocessor makes them; ids, masks, labels and weights are checked. In a row,
                `decoder_text` may be a list of several targets, of which each epoch draws one;
                validation takes each as a row. Other columns are not read; a warning lists them.
            y: texts, the targets where `x` holds no `decoder_text`; the labels of arrays, of
                which -100 has no loss; or `None`.
            batch_size: int. Rows per step, 32 by default; not for data that comes in batches.
            sample_weight: (rows,) or (rows, labels) floats, times the loss of the rows' tokens or
                of each label; of text as many as the longest row has, or more.
            validation_data: as `x`, or `(x,)`, `(x, y, sample_weight)`.
            validation_split: float. The part of the rows in memory, their last, to validate on.
            validation_batch_size: int. By default as `batch_size`.
            class_weight: dict from token ids to floats, times the loss of labels of this token.
            shuffle: bool. Whether rows in memory, or the batches of a `PyDataset`, come in a new
                order in each epoch.
            group_by_length: bool. Whether shuffled rows of text in memory come in batches of
                similar length, of which less is padding; by default they do. The batches come in
                a random order, another one in each epoch.
            distillation: `Distillation`, to learn from a teacher; validation goes by labels.
            columns: dict from names of the data's columns to those that are read, such as
                `{"question": "encoder_text", "answer": "decoder_text"}`.
            **kwargs: as `keras.Model.fit` has them.

        Raises:
            ValueError, TypeError: about a row or batch, which the message names.
        """
        batch_size, size = checked(
            batch_size=batch_size, validation_batch_size=validation_batch_size
        )
        if distillation is not None:
            self._check_distillation(distillation)
        check_grouping(group_by_length, shuffle=shuffle)
        is_grouped = shuffle if group_by_length is None else group_by_length
        shared = {"cuts": Cuts(), "columns": Columns(columns)}
        preparation = self._preparation(class_weight, distillation, targets="draw", **shared)
        evaluation = self._preparation(targets="each", **shared)
        training = batches_of(x, y, sample_weight, batch_size, shuffle, preparation, is_grouped)
        validation = None
        if validation_data is not None:
            x, y, sample_weight = validation_data, None, None
            if isinstance(x, tuple):  # a list is of rows
                x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(x)
            # Rows come in batches of `batch_size` where nothing is said; batches are as they are.
            validation = batches_of(x, y, sample_weight, size, False, evaluation, True)
            if size is None and batch_size is not None and validation.batch_size is not None:
                validation.batch_size = batch_size
        elif validation_split:
            training, validation = _split(training, validation_split, size, evaluation)
        if validation is not None and (self._needs_logits or kwargs.get("validation_steps")):
            validation.lengths = None  # their order counts
        for data in (training, *([] if validation is None else [validation])):
            data.can_add_rows = not self._needs_logits
        steps = kwargs.get("steps_per_epoch")
        callbacks, is_saved = with_places(kwargs.pop("callbacks", None), training, steps)
        callbacks = with_rates(callbacks, self)
        reporting = reporting_steps(self, callbacks, kwargs.get("verbose", "auto"))
        options = {"validation_data": validation, **kwargs}
        with (
            reading(training, validation, steps=steps, may_begin_late=is_saved),
            reporting as callbacks,
        ):
            history = keras.Model.fit(self, training, callbacks=callbacks, **options)
        _part_averages(self.optimizer)
        return history

    def evaluate(
        self,
        x=None,
        y=None,
        batch_size=None,
        sample_weight=None,
        group_by_length=None,
        columns=None,
        **kwargs,
    ):
        """The loss and metrics on data as `fit` takes it; of several targets, on each.

        Args:
            x, y, batch_size, sample_weight, columns: as `fit` has them.
            group_by_length: bool. Whether rows of text in memory come in the order of their
                length, so that less is padding; by default they do where the loss and the metrics
                are "auto", which no order changes, and all of the rows are read.
            **kwargs: as `keras.Model.evaluate` has them.
        """
        steps = kwargs.get("steps")
        check_grouping(group_by_length, steps=steps)
        if group_by_length is None:
            group_by_length = steps is None and not self._needs_logits
        preparation = self._preparation(columns=Columns(columns), targets="each")
        data = batches_of(x, y, sample_weight, batch_size, False, preparation, group_by_length)
        data.can_add_rows = not self._needs_logits
        reporting = self, kwargs.pop("callbacks", None), kwargs.get("verbose", "auto")
        with reading(data, steps=steps), reporting_steps(*reporting) as callbacks:
            return keras.Model.evaluate(self, data, callbacks=callbacks, **kwargs)

    def predict(self, x=None, batch_size=None, group_by_length=None, columns=None, **kwargs):
        """The logits on data as `fit` takes it, (rows, decoder length, vocabulary).

        The decoder length is that of the longest batch. Logits are zeros where a batch had none.
        Rows are in their order.

        Args:
            x, batch_size, columns: as `fit` has them.
            group_by_length: bool. Whether the batches of rows of text in memory are of rows of
                similar length, so that less is padding; by default they are where all of them
                are read.
            **kwargs: as `keras.Model.predict` has them.
        """
        steps = kwargs.get("steps")
        check_grouping(group_by_length, steps=steps)
        is_grouped = steps is None if group_by_length is None else group_by_length
        preparation = self._preparation(columns=Columns(columns))
        data = batches_of(x, None, None, batch_size, False, preparation, is_grouped)
        data.is_joined = True
        reporting = self, kwargs.pop("callbacks", None), kwargs.get("verbose", "auto")
        with reading(data, steps=steps), reporting_steps(*reporting) as callbacks:
            return data.joined(keras.Model.predict(self, data, callbacks=callbacks, **kwargs))

    def precompute(self, x, batch_size=8, verbose=1, columns=None):
        """`x` with what the frozen vision tower makes of its images in place of them.

        Training on it gives the same losses, and no step runs the tower. An image that comes
        several times is computed once. What already holds `ImageFeatures` stays as it is, so that
        a large data set can be given in parts; an interruption changes nothing.

        Args:
            x: rows as `fit` takes them; a data set is read to its end.
            batch_size: int. Images and crops at a time.
            verbose: 0 or 1. Whether to show the progress.
            columns: as `fit` has it.

        Returns:
            As `x`, with a list of `ImageFeatures` as each row's `images`; where `x` is no dict
            and no list of dicts, or columns were renamed, a dict of lists.

        Raises:
            ValueError: the vision tower is trainable or not there; or about an image, which the
                message names.
        """
        return with_features(self, x, batch_size, verbose, columns)

    def sample_logits(self, x, num_samples=256, batch_size=8, seed=0):
        """What a student learns from this model about rows, to be stored and used again.

        For each token of the targets, tokens are drawn by their probabilities, without putting
        back. The logits of a batch are never there all at once.

        Args:
            x: rows in memory as `fit` takes them, or arrays as the preprocessor makes them.
            num_samples: int. Tokens to draw for each token.
            batch_size: int. Rows at a time.
            seed: int.

        Returns:
            `TeacherSamples`.
        """
        num_samples = checked(num_samples=num_samples)
        batches = batches_of(x, None, None, batch_size, False, self._preparation())
        return sample_rows(self, batches, num_samples, seed)

    def preprocess_samples(self, x, y=None, sample_weight=None):
        """What `train_on_batch` and the like make of a batch; see `fit` for what it may be."""
        if y is None and sample_weight is None:
            x, y, sample_weight = unpack(x)
        return self._preparation()(x, y, sample_weight)

    def _preparation(
        self, class_weight=None, distillation=None, cuts=None, columns=None, targets="one"
    ):
        # Again, since a tokenizer can take another vocabulary.
        check_agreement(self.backbone, self.preprocessor)
        return Preparation(
            self.preprocessor,
            self.backbone.config,
            class_weight,
            distillation,
            has_token_labels=self._token_loss is not None,
            cuts=Cuts() if cuts is None else cuts,
            columns=Columns() if columns is None else columns,
            targets=targets,
        )

    def _check_distillation(self, distillation):
        distillation.check(self)
        if self._needs_logits:
            raise ValueError(
                "`distillation` brings its own loss. Received: a task compiled with loss="
                f'{shown(self.loss)} or metrics on logits. Compile it with loss="auto" and '
                'weighted_metrics="auto"'
            )
        # By its terms, what learns from Gemma derives from it.
        if is_of_gemma(distillation.source) and not is_of_gemma(self.backbone.source):
            self.backbone.source = distillation.source

    def score(self, inputs, columns=None):
        """How likely the model finds given targets.

        Args:
            inputs: rows as `fit` takes them, or a tuple of texts and their targets; a data set is
                read to its end. Or a tuple of arrays as the preprocessor makes them, (x, labels)
                or (x, labels, weights), where -100 is a label that does not count.
            columns: as `fit` has it.

        Returns:
            (rows,) float32: the log-probability of each row's `decoder_text`, the sum over its
            tokens and the end token. A number for a single row.

        Raises:
            ValueError: a target has more tokens than the preprocessor's
                `decoder_sequence_length`, or the model's logits for a row are not finite; the
                message names the row.
        """
        if self.preprocessor is None or (isinstance(inputs, tuple) and are_arrays(inputs[0])):
            x, labels, weights = self._arrays_to_score(inputs)
            if is_single := labels.ndim == 1:
                x = {name: value[None] for name, value in x.items()}
                labels, weights = labels[None], weights[None]
        else:
            known = Columns(columns)
            rows, is_single = read_rows(inputs, known, several_targets=True, reads_y=True)
            rows, _ = self._preparation().with_one_target(rows)
            with one_warning(Cuts(refuses_targets=True)):
                x, labels, weights = self.preprocessor.call(rows)
        predict = functools.partial(keras.Model.predict_on_batch, self)
        logits = of_rows(predict, self.backbone.complete(x))
        log_probabilities = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
        of_labels = ops.take_along_axis(log_probabilities, labels[..., None], axis=-1)
        # What stands at padding is nobody's score, and may be no number.
        scores = np.where(weights > 0, ops.convert_to_numpy(of_labels)[..., 0] * weights, 0)
        for row in np.flatnonzero(~np.isfinite(scores.sum(axis=1))):
            raise finite.error(f"The logits of row {row}", self.backbone.decoder.compute_dtype)
        return float(scores.sum()) if is_single else scores.sum(axis=1)

    def _arrays_to_score(self, inputs):
        x, labels, weights = keras.utils.unpack_x_y_sample_weight(inputs)
        if labels is None or not are_arrays(x):
            raise ValueError(
                "Without a preprocessor `inputs` must be a tuple of arrays, (x, labels) or (x, "
                f"labels, weights). Received: preprocessor=None, and {shown(inputs)}"
            )
        return dataclasses.replace(self._preparation(), has_token_labels=True)(x, labels, weights)

    # Generation -------------------------------------------------------------------------------

    @property
    def cross_attention_cache(self):
        """ "projected", "shared" or "auto": what is kept of the encoder's output in `generate`.

        Keys and values in every layer of the decoder are the fastest to read. One tensor that all
        layers share, with a number for each token, head and layer beside it, is many times
        smaller; the results are the same to rounding. "auto" shares where keys and values would
        take more than 2 GiB.
        """
        return self.generator.cross_attention_cache

    @cross_attention_cache.setter
    def cross_attention_cache(self, value):
        self.generator.cross_attention_cache = value

    @property
    def cache_dtype(self):
        """ "auto" or "int8": how `generate` stores what it keeps of the tokens before.

        In int8 each token and head has a scale in float32: half of the memory of bfloat16, a
        quarter of that of float32. "auto" is the dtype in which the model computes.
        """
        return self.generator.cache_dtype

    @cache_dtype.setter
    def cache_dtype(self, value):
        self.generator.cache_dtype = value

    @property
    def sampler(self):
        """The `keras_hub.samplers.Sampler` that chooses the next token.

        It may be set, by name too, and its attributes changed: the next call goes by them.
        """
        return self.generator.sampler

    @sampler.setter
    def sampler(self, value):
        self.generator.sampler = value

    @property
    def generate_function(self):
        """What `make_generate_function` gave. Set to `None` to compile all anew."""
        return self.generator.generate_function

    @generate_function.setter
    def generate_function(self, value):
        self.generator.generate_function = value

    def encode(self, inputs, cross_attention_cache=None, verbose="auto", *, columns=None):
        """The encoder's side of `generate`, computed once, for its argument `encoded`.

        Args:
            inputs: as `generate` takes it; what is said there of the decoder is not read.
            cross_attention_cache: as the attribute, which it is by default.
            verbose: 0, 1 or "auto". Whether to say on stderr that a program is compiled.
            columns: as `generate` has it.

        Returns:
            `Encoded` of as many rows.

        Example: three texts that begin differently, of one encoded input.

            encoded = lm.encode("a long document")
            lm.generate({"decoder_text": ["In short:", "In detail:"]}, encoded=encoded)
        """
        return self.generator.encode(inputs, cross_attention_cache, verbose, columns=columns)

    def generate(
        self,
        inputs=None,
        max_length=None,
        stop_token_ids="auto",
        strip_prompt=False,
        max_new_tokens=None,
        assistant=None,
        *,
        encoded=None,
        num_return_sequences=1,
        batch_size=None,
        cross_attention_cache=None,
        columns=None,
        verbose="auto",
    ):
        """Text that continues the decoder's prompt, given the encoder's text and images.

        The sampler is the one given to `compile(sampler=...)`, as it is when the call begins.
        Several threads may generate at the same time.

        Args:
            inputs: a string, a list of strings, or a dict of `encoder_text`, `images` and
                `decoder_text` (all but one optional), a value per row; see the preprocessor,
                whose `encoder_sequence_length` is where longer encoder text is cut, with one
                warning that names the row. Or a table or data set as `fit` takes it, which is
                read to its end; its targets y are not read.
                Without `encoder_text` the decoder continues its prompt and sees no encoder.
                Without a preprocessor: a dict of arrays as the backbone takes them.
            max_length: int. Tokens of a row's prompt and new tokens together. Where neither this
                nor `max_new_tokens` is given, a row gets at most 256 new tokens and no more than
                fit into the preprocessor's `decoder_sequence_length`, with one warning if no stop
                token came by then; without a preprocessor, what the length of
                `decoder_token_ids` leaves room for.
            stop_token_ids: list or tuple of the ids that end a row; "auto" for the tokenizer's end
                token; `None`, or none in it, to go on to the last token there is room for.
            strip_prompt: bool. Whether to leave out the decoder's prompt.
            max_new_tokens: int. New tokens of each row, 256 by default; see `max_length`.
            assistant: who proposes tokens, several of which are checked in one step: the text of
                the greedy sampler stays what it is. "prompt_lookup": what followed the last
                tokens where they stood before, in the encoder's text or the decoder's; for
                answers that copy. Or a smaller `T5Gemma2Seq2SeqLM` of the same vocabulary. Rows
                are generated one after another.
            encoded: what `encode` gave, in place of the encoder's text and images, which are
                then not read. It is for this model, and refused where weights or adapters have
                changed since. Of R times as many rows, R in turn share one encoded row: all of
                them where one was encoded. `inputs` may be `None`: a row for each encoded one.
            num_return_sequences: int. Sequences drawn for each row, which share what is encoded.
                They follow each other in the result.
            batch_size: int. Rows at a time, by default 32. Of more rows, those of similar length
                are generated together, and the result has the order of `inputs`.
            cross_attention_cache: as the attribute, which it is by default.
            columns: dict from names of the data's columns to those that are read, such as
                `{"question": "encoder_text"}`.
            verbose: 0, 1 or "auto". Whether to show the progress, "auto" where there are several
                batches, and to say on stderr that a program is compiled, which 0 turns off.

        Returns:
            A string for a string (or a dict of them), else a list of strings; without a
            preprocessor a dict of `decoder_token_ids` (rows, length) and `decoder_padding_mask`,
            without the axis of rows for arrays of one row without it.

        Raises:
            ValueError: about a row, which the message names; the model's logits for it are not
                finite, or no room is left for a new token.
        """
        return self.generator.generate(
            inputs,
            max_length,
            stop_token_ids,
            strip_prompt,
            max_new_tokens,
            assistant,
            encoded=encoded,
            num_return_sequences=num_return_sequences,
            batch_size=batch_size,
            cross_attention_cache=cross_attention_cache,
            columns=columns,
            verbose=verbose,
        )

    def stream(
        self,
        inputs,
        max_length=None,
        stop_token_ids="auto",
        strip_prompt=True,
        max_new_tokens=None,
        *,
        cross_attention_cache=None,
        columns=None,
        verbose="auto",
    ):
        """The text of `generate` in pieces, each as soon as no further token can change it.

        The pieces of a row, joined, are the text that `generate` gives with the same arguments
        and the same random state. Nothing is computed before the first piece is asked for, and
        nothing after the iterator is closed or left.

        Args:
            inputs: as `generate` has them.
            max_length: as `generate` has it.
            stop_token_ids: as `generate` has it.
            strip_prompt: bool. Whether to leave out the decoder's prompt, which else comes first.
            max_new_tokens: as `generate` has it. The warning of what is cut comes with the end
                of the text, or when it is left.
            cross_attention_cache: as `generate` has it.
            columns: as `generate` has it.
            verbose: 0, 1 or "auto". Whether to say on stderr that a program is compiled.

        Returns:
            An iterator of strings for a string (or a dict of them), else of tuples of the number
            of the row and a string. Without a preprocessor: of tuples of the row and an id.

        Raises:
            ValueError: the sampler looks at whole sequences (`beam`, `contrastive`); or as
                `generate`.

        Example:

        >>> import keras_t5gemma2
        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.compile(sampler="greedy")
        >>> pieces = list(lm.stream("Write as a number: seven", max_new_tokens=20))
        >>> "".join(pieces) == lm.generate(
        ...     "Write as a number: seven", max_new_tokens=20, strip_prompt=True
        ... )
        True
        """
        limits = max_length, max_new_tokens
        return stream(
            self.generator,
            inputs,
            limits,
            stop_token_ids,
            strip_prompt,
            cross_attention_cache,
            columns,
            verbose,
        )

    def infill(self, inputs, first_sentinel=FIRST_SENTINEL, **options):
        """What the model puts into the gaps of a text.

        Args:
            inputs: a string with gaps, `<extra_0>`, `<extra_1>` and so on in the order of the
                text; a list of such strings; or a dict of `encoder_text` and, optionally,
                `images`, as `generate` takes it.
            first_sentinel: string. The token that stands for the first gap in the model's
                vocabulary; those of the others count down from its number.
            **options: of `generate`, such as `max_new_tokens`, all gaps of a row together.

        Returns:
            For one text a list with a string for each gap, in order, without the spaces and line
            breaks around it; `None` for a gap that the model did not come to. For several texts a
            list of such lists.

        Raises:
            ValueError: a row has no gaps, they are not numbered in order, there are more than
                sentinels, or it has a `decoder_text`.

        Example:

        >>> from keras_t5gemma2 import T5Gemma2Seq2SeqLM
        >>> lm = T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.compile(sampler="greedy")
        >>> lm.infill("2026-12-17 = French 17 <extra_0> 2026")
        ['décembre']
        """
        return infill(self.generator, inputs, first_sentinel, **options)

    def warmup(
        self,
        lengths,
        new_tokens=32,
        batch_size=1,
        prompt_length=1,
        images=0,
        stop_token_ids="auto",
        verbose="auto",
    ):
        """Compiles for inputs of these lengths, so that `generate` does not have to.

        A program serves all lengths that are rounded up to the same one, and so it does new
        tokens and prompts: one call for the longest of each kind is enough. The sampler is that
        of `compile`, whose random numbers go on as if nothing had been generated. Each program
        runs once, for one token.

        Args:
            lengths: int or list of ints. Tokens on the encoder's side.
            new_tokens: int or list of ints. As `generate` has it as `max_new_tokens`, or as what
                `max_length` leaves to a prompt.
            batch_size: int or list of ints. Rows.
            prompt_length: int or list of ints. Tokens of the decoder's prompt; the start token
                is one.
            images: int. Of the row that has most, crops included.
            stop_token_ids: as `generate` has it.
            verbose: 0, 1 or "auto". Whether to say on stderr what is compiled, unless 0.

        Raises:
            ValueError: a number is less than 1, or there are images and no vision tower.

        Example:

        >>> from keras_t5gemma2 import (
        ...     AttentionConfig, BackboneConfig, StackConfig, T5Gemma2Backbone, T5Gemma2Seq2SeqLM
        ... )
        >>> local = AttentionConfig(num_heads=4, num_kv_heads=1, head_dim=8, window=6)
        >>> stack = StackConfig(hidden_dim=32, mlp_dim=48, layers=(local,))
        >>> config = BackboneConfig(vocabulary_size=101, encoder=stack, decoder=stack)
        >>> lm = T5Gemma2Seq2SeqLM(T5Gemma2Backbone(config))
        >>> lm.warmup([50, 100], new_tokens=20, stop_token_ids=None)
        """
        sizes = {
            "lengths": lengths,
            "new_tokens": new_tokens,
            "batch_size": batch_size,
            "prompt_length": prompt_length,
        }
        warmup(self.generator, sizes, images, stop_token_ids, verbose)

    def generate_step(self, inputs, stop_token_ids=None, call=None):
        """One batch from ids to ids; compiled by `make_generate_function`.

        Args:
            inputs: dict of the arrays that `batching.pad_rows` makes, or, in place of those of
                the encoder, what `encode` made of them as `memory`. R rows of the prompts in turn
                share one of the encoder's.
            stop_token_ids: tuple of ints, or `None`.
            call: `calls.Call`, by default as the task's attributes are now.

        Returns:
            (B, prompt and room) int32 ids, prompts at the left; -1 where none was generated, -2
            from the first one on whose logits were not finite.
        """
        return self.generator.generate_step(inputs, stop_token_ids, call)

    def make_generate_function(self, call=None):
        """`generate_step` compiled, a function of inputs and `stop_token_ids`.

        Args:
            call: `calls.Call`, by default as the task's attributes are when the function is called.
        """
        return self.generator.make_generate_function(call)


def _split(batches, validation_split, validation_batch_size, preparation):
    if not isinstance(batches, InMemoryBatches):
        raise ValueError(
            "`validation_split` needs rows in memory. Received: validation_split="
            f"{validation_split} and a data set. Give `validation_data`"
        )
    return batches.split(validation_split, validation_batch_size, preparation)


def _part_averages(optimizer):
    """Gives the moving averages memory of their own.

    At the end of `fit` Keras assigns them to the weights. On JAX both are one buffer then, which
    the next training step cannot take twice.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of one that scales the loss
    if optimizer.use_ema:
        for average in compat.moving_averages(optimizer):
            average.assign(ops.copy(average))
