"""The task: text and images in, text out; trained with `fit`, run with `generate`."""

import sys

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_t5gemma2 import cache as caches
from keras_t5gemma2.backbone import T5Gemma2Backbone
from keras_t5gemma2.preprocessing.preprocessor import T5Gemma2Seq2SeqLMPreprocessor
from keras_t5gemma2.registry import presets
from keras_t5gemma2.saving import SavesAtomically
from keras_t5gemma2.tasks import decoding, generation, speculation
from keras_t5gemma2.tasks.adapter_files import SavesAdapters, reading_adapter_files
from keras_t5gemma2.tasks.beam_search import BeamSearch
from keras_t5gemma2.tasks.elements import Preparation, unpack
from keras_t5gemma2.tasks.precompute import with_features
from keras_t5gemma2.tasks.row_batches import InMemoryBatches, batches_of, reading
from keras_t5gemma2.tasks.streaming import Streams
from keras_t5gemma2.tasks.token_loss import TrainsWithoutLogits


@keras.saving.register_keras_serializable(package="keras_t5gemma2")
class T5Gemma2Seq2SeqLM(
    SavesAtomically, SavesAdapters, TrainsWithoutLogits, Streams, keras_hub.models.Seq2SeqLM
):
    """A T5Gemma 2 model that reads text and images and writes text.

    Called on the arrays that its preprocessor makes (see `T5Gemma2Backbone` for the keys), it
    gives logits of (batch, decoder length, vocabulary). `generate`, `fit`, `evaluate` and
    `predict` take raw text and images.

    Args:
        backbone: `T5Gemma2Backbone`.
        preprocessor: `T5Gemma2Seq2SeqLMPreprocessor`, or `None` to work on arrays only.
    """

    backbone_cls = T5Gemma2Backbone
    preprocessor_cls = T5Gemma2Seq2SeqLMPreprocessor
    presets = presets  # those that `from_preset` knows by name
    _replaced_files = (
        *("model*.weights.h5", "model.weights.json", "task.weights.h5"),
        "adapters/*.safetensors",
    )

    def __init__(self, backbone, preprocessor=None, **kwargs):
        self.backbone = backbone
        self.preprocessor = preprocessor
        inputs = backbone.input
        hidden = backbone(inputs)["decoder_sequence_output"]
        super().__init__(inputs=inputs, outputs=self.logits(hidden), **kwargs)

    def logits(self, hidden):
        """(..., vocabulary) logits of (..., hidden_dim) outputs of the decoder."""
        return self.backbone.token_embedding(hidden, reverse=True)

    def __call__(self, inputs, *args, **kwargs):
        return super().__call__(self.backbone.complete(inputs), *args, **kwargs)

    # Loading ----------------------------------------------------------------------------------

    @classmethod
    def from_preset(cls, preset, load_weights=True, text_only=False, **kwargs):
        """The model of a preset or of a published checkpoint, with its preprocessor.

        Args:
            preset: a name of `keras_t5gemma2.presets`, `hf://organization/repository`, a local
                directory in the reference's format, a preset directory, or any other handle
                that keras-hub knows.
            load_weights: bool. If false, the weights are random.
            text_only: bool. If true, the vision tower is neither built nor read.
            **kwargs: `dtype` of every part, by default Keras's global policy; `preprocessor`
                and further arguments of the constructor.

        Raises:
            FileNotFoundError, PermissionError, ConnectionError: the files cannot be had; the
                message says why and what to do.
            ValueError: a file is not what it should be; the message names the tensor or key.
        """
        from keras_t5gemma2.checkpoints import presets, transformers

        directory, preset = presets.locate(preset, load_weights)
        if directory is None and not text_only:
            with reading_adapter_files(preset):
                lm = super().from_preset(preset, load_weights, **kwargs)
            return lm._load_preset_adapters(preset) if load_weights else lm
        dtype = kwargs.pop("dtype", None)
        if directory is not None:
            if "preprocessor" not in kwargs:
                kwargs["preprocessor"] = presets.load_task_preprocessor(
                    cls.preprocessor_cls, directory, text_only
                )
            backbone = transformers.load_backbone(directory, load_weights, text_only, dtype)
            return cls(backbone, **kwargs)
        if "preprocessor" not in kwargs:
            kwargs["preprocessor"] = cls.preprocessor_cls.from_preset(preset, image_converter=None)
        lm = cls(cls.backbone_cls.from_preset(preset, load_weights, True, dtype=dtype), **kwargs)
        return lm._load_preset_adapters(preset) if load_weights else lm

    @classmethod
    def from_gemma3(cls, path, dtype=None, **kwargs):
        """A text model whose encoder and decoder both start from a Gemma 3, as in the paper.

        With no token for the encoder to see, the decoder is that Gemma 3.

        Args:
            path: path of a GGUF file (needs the extra `gguf`), or of a directory with a Gemma 3
                text model in the reference's format.
            dtype: string or `keras.DTypePolicy` of every part.
            **kwargs: `preprocessor` and further arguments of the constructor.

        Raises:
            FileNotFoundError: there is no such file, or a part of it is missing.
            ImportError: the extra `gguf` is needed and not installed.
            ValueError: it is no Gemma 3 text model, or a file is not what it should be.
        """
        from keras_t5gemma2.checkpoints import gemma3

        if "preprocessor" not in kwargs:
            tokenizer = gemma3.load_gemma3_tokenizer(path)
            kwargs["preprocessor"] = cls.preprocessor_cls(tokenizer)
        return cls(gemma3.load_gemma3(path, dtype=dtype), **kwargs)

    # Training ---------------------------------------------------------------------------------

    def compile(self, *args, **kwargs):
        super().compile(*args, **kwargs)
        # keras-hub's own beams run on past the end token, where the reference's stop.
        if type(self.sampler) is keras_hub.samplers.BeamSampler:
            self.sampler = BeamSearch(**self.sampler.get_config())

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
        **kwargs,
    ):
        """Trains on raw text and images, or on what the preprocessor makes of them.

        Rows in memory are checked before the first step, all others when they are read. The
        images axis of a batch is filled up to 0, 1, 2, 4, 8, ... images, so that few programs are
        compiled.

        Args:
            x: dict of `encoder_text`, `decoder_text` and, optionally, `images`, a value per row;
                a list of such dicts of single rows; or a `keras.utils.PyDataset`, `tf.data` or
                grain data set, torch `DataLoader` or generator, over batches or over rows. Each
                may also hold arrays as the preprocessor makes them: x, (x, y) or
                (x, y, sample_weight).
            y: `None`: the targets are made from `decoder_text`; the labels of arrays.
            batch_size: int. Rows per step, 32 by default; not for data that comes in batches.
            sample_weight: (rows,) or (rows, decoder length) floats, times the loss of the rows'
                tokens or of each label.
            validation_data: as `x`, or `(x,)`, `(x, y, sample_weight)`.
            validation_split: float. The part of the rows in memory, their last, to validate on.
            validation_batch_size: int. By default as `batch_size`.
            class_weight: dict from token ids to floats, times the loss of labels of this token.
            shuffle: bool. Whether rows in memory, or the batches of a `PyDataset`, come in a new
                order in each epoch.
            **kwargs: as `keras.Model.fit` has them.

        Raises:
            ValueError, TypeError: about a row or batch, which the message names.
        """
        training = batches_of(
            x, y, sample_weight, batch_size, shuffle, self._preparation(class_weight)
        )
        validation = None
        size = validation_batch_size
        if validation_data is not None:
            x, y, sample_weight = unpack(validation_data)
            # Rows come in batches of `batch_size` where nothing is said; batches are as they are.
            validation = batches_of(x, y, sample_weight, size, False, self._preparation())
            if size is None and batch_size is not None and validation.batch_size is not None:
                validation.batch_size = batch_size
        elif validation_split:
            training, validation = _split(training, validation_split, size, self._preparation())
        with reading(training, validation, steps=kwargs.get("steps_per_epoch")):
            history = keras.Model.fit(self, training, validation_data=validation, **kwargs)
        _part_averages(self.optimizer)
        return history

    def evaluate(self, x=None, y=None, batch_size=None, sample_weight=None, **kwargs):
        """The loss and metrics on data as `fit` takes it."""
        data = batches_of(x, y, sample_weight, batch_size, False, self._preparation())
        with reading(data, steps=kwargs.get("steps")):
            return keras.Model.evaluate(self, data, **kwargs)

    def predict(self, x=None, batch_size=None, **kwargs):
        """The logits on data as `fit` takes it, (rows, decoder length, vocabulary)."""
        data = batches_of(x, None, None, batch_size, False, self._preparation())
        with reading(data, steps=kwargs.get("steps")):
            return keras.Model.predict(self, data, **kwargs)

    def precompute(self, x, batch_size=8, verbose=1):
        """`x` with what the frozen vision tower makes of its images in place of them.

        Training on it gives the same losses, and no step runs the tower. An image that comes
        several times is computed once. What already holds `ImageFeatures` stays as it is, so that
        a large data set can be given in parts; an interruption changes nothing.

        Args:
            x: dict of rows as `fit` takes it, in memory, or a list of such dicts of single rows.
            batch_size: int. Images and crops at a time.
            verbose: 0 or 1. Whether to show the progress.

        Returns:
            As `x`, with a list of `ImageFeatures` as each row's `images`.

        Raises:
            ValueError: the vision tower is trainable or not there; or about an image, which the
                message names.
        """
        return with_features(self, x, batch_size, verbose)

    def preprocess_samples(self, x, y=None, sample_weight=None):
        """What `train_on_batch` and the like make of a batch; see `fit` for what it may be."""
        if y is None and sample_weight is None:
            x, y, sample_weight = unpack(x)
        return self._preparation()(x, y, sample_weight)

    def _preparation(self, class_weight=None):
        return Preparation(self.preprocessor, self.backbone.config.vision, class_weight)

    def score(self, inputs):
        """How likely the model finds given targets.

        Args:
            inputs: dict of `encoder_text`, `decoder_text` and, optionally, `images`, as `fit`
                takes it.

        Returns:
            (rows,) float32: the log-probability of each row's `decoder_text`, the sum over its
            tokens and the end token. A number for a single row.
        """
        x, labels, weights = self.preprocessor(inputs)
        if is_single := labels.ndim == 1:
            x = {name: value[None] for name, value in x.items()}
            labels, weights = labels[None], weights[None]
        logits = keras.Model.predict_on_batch(self, self.backbone.complete(x))
        log_probabilities = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
        of_labels = ops.take_along_axis(log_probabilities, labels[..., None], axis=-1)
        scores = ops.convert_to_numpy(of_labels)[..., 0] * weights
        return float(scores.sum()) if is_single else scores.sum(axis=1)

    # Generation -------------------------------------------------------------------------------

    def generate(
        self,
        inputs,
        max_length=None,
        stop_token_ids="auto",
        strip_prompt=False,
        max_new_tokens=None,
        assistant=None,
    ):
        """Text that continues the decoder's prompt, given the encoder's text and images.

        The sampler is the one given to `compile(sampler=...)`.

        Args:
            inputs: a string, a list of strings, or a dict of `encoder_text`, `images` and
                `decoder_text` (all but one optional), a value per row; see the preprocessor,
                whose `encoder_sequence_length` is where longer encoder text is cut.
                Without `encoder_text` the decoder continues its prompt and sees no encoder.
                Without a preprocessor: a dict of arrays as the backbone takes them.
            max_length: int. Tokens of a row's prompt and new tokens together. Defaults to the
                preprocessor's `decoder_sequence_length`, or, without a preprocessor, to the
                length of `decoder_token_ids`.
            stop_token_ids: ids that end a row; "auto" for the tokenizer's end token; `None` to
                go on to `max_length`.
            strip_prompt: bool. Whether to leave out the decoder's prompt.
            max_new_tokens: int. New tokens of each row; then `max_length` is not needed.
            assistant: who proposes tokens, several of which are checked in one step: the text of
                the greedy sampler stays what it is. "prompt_lookup": what followed the last
                tokens where they stood before, in the encoder's text or the decoder's; for
                answers that copy. Or a smaller `T5Gemma2Seq2SeqLM` of the same vocabulary. Rows
                are generated one after another.

        Returns:
            A string for a string (or a dict of them), else a list of strings; without a
            preprocessor a dict of `decoder_token_ids` (rows, length) and `decoder_padding_mask`.
        """
        if hasattr(inputs, "as_numpy_iterator"):
            options = (max_length, stop_token_ids, strip_prompt, max_new_tokens, assistant)
            batches = [self.generate(batch, *options) for batch in inputs.as_numpy_iterator()]
            return _concatenate(batches)

        stop_token_ids = self._stop_token_ids(stop_token_ids)
        rows, is_scalar = self._rows(inputs)
        budgets = self._budgets(inputs, rows, max_length, max_new_tokens)
        if assistant is None:
            new = self._new_tokens(rows, budgets, stop_token_ids)
        else:
            new = speculation.new_tokens(self, assistant, rows, budgets, stop_token_ids)
        whole = [np.concatenate(pair) for pair in zip(rows.prompts, new, strict=True)]
        length = max(len(p) + b for p, b in zip(rows.prompts, budgets, strict=True))
        outputs = generation.pad_outputs(new if strip_prompt else whole, length)
        if self.preprocessor is None:
            return outputs
        text = self.preprocessor.generate_postprocess(outputs)
        return text[0] if is_scalar else text

    def _new_tokens(self, rows, budgets, stop_token_ids):
        arrays = generation.pad_rows(rows, max(budgets))
        tensors = keras.tree.map_structure(ops.convert_to_tensor, arrays)
        step = self.make_generate_function()
        token_ids = ops.convert_to_numpy(step(tensors, stop_token_ids=stop_token_ids))
        prompt_length = arrays["decoder_token_ids"].shape[1]
        return generation.new_tokens_of_rows(token_ids, prompt_length, budgets, stop_token_ids)

    def generate_step(self, inputs, stop_token_ids=None):
        """One batch from ids to ids; compiled by `make_generate_function`.

        Args:
            inputs: dict of the arrays that `generation.pad_rows` makes.
            stop_token_ids: tuple of ints, or `None`.

        Returns:
            (B, prompt and room) int32 ids, prompts at the left; -1 where none was generated.
        """
        # Contrastive search alone looks back at the states of earlier tokens.
        looks_back = isinstance(self.sampler, keras_hub.samplers.ContrastiveSampler)
        memory = decoding.remember(self.backbone, inputs)
        cache, hidden = decoding.prefill(self.backbone, inputs, memory, keep_states=looks_back)
        prompt, new = inputs["decoder_token_ids"], inputs["new_token_ids"]
        mask = ops.concatenate([ops.ones_like(prompt), ops.zeros_like(new)], axis=1)

        is_folded = decoding.carries_folded(self.sampler)

        def next(prompt, cache, index):
            cache = caches.unfolded(cache) if is_folded else cache
            hidden, cache = decoding.step(self.backbone, memory, prompt, cache, index)
            return self.logits(hidden), hidden, caches.folded(cache) if is_folded else cache

        sampler = decoding.bounded(self.sampler, inputs["new_tokens"])
        return sampler(
            next=next,
            prompt=ops.concatenate([prompt, new], axis=1),
            cache=caches.folded(cache) if is_folded else cache,
            index=prompt.shape[1],
            mask=ops.cast(mask, "bool"),
            stop_token_ids=stop_token_ids,
            hidden_states=hidden,
            model=self,
        )

    def _rows(self, inputs):
        if self.preprocessor is None:
            return generation.rows_of_arrays(inputs), False
        # A prompt is never cut: one that leaves no room is an error.
        encoded, is_single = self.preprocessor.encode_rows(
            inputs, decoder_sequence_length=sys.maxsize
        )
        return generation.rows_of_encoded(encoded), is_single

    def _stop_token_ids(self, stop_token_ids):
        if stop_token_ids != "auto":
            return None if stop_token_ids is None else tuple(int(i) for i in stop_token_ids)
        if self.preprocessor is None:
            raise ValueError(
                '`stop_token_ids="auto"` needs a preprocessor: its tokenizer knows the end token. '
                "Received: preprocessor=None. Pass the ids, or `None` to go on to `max_length`."
            )
        return (self.preprocessor.tokenizer.end_token_id,)

    def _budgets(self, inputs, rows, max_length, max_new_tokens):
        """Per row, how many tokens to generate."""
        if max_new_tokens is not None and max_length is None:
            budgets = [max_new_tokens] * len(rows.prompts)
        else:
            if max_length is None and self.preprocessor is None:
                max_length = np.shape(inputs["decoder_token_ids"])[1]
            elif max_length is None:
                max_length = self.preprocessor.decoder_sequence_length
            budgets = [max_length - len(prompt) for prompt in rows.prompts]
            if max_new_tokens is not None:
                budgets = [min(budget, max_new_tokens) for budget in budgets]
        for row, (prompt, budget) in enumerate(zip(rows.prompts, budgets, strict=True)):
            if len(prompt) == 0:
                raise ValueError(
                    "A decoder prompt must have at least one token, the start token. "
                    f"Received: an empty prompt in row {row}."
                )
            if budget < 1:
                raise ValueError(
                    "There must be room for at least one new token. Received: "
                    f"max_length={max_length}, max_new_tokens={max_new_tokens}, and in row {row} "
                    f"a decoder prompt of {len(prompt)} tokens. Give a larger limit."
                )
        return budgets


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
        for average in optimizer._model_variables_moving_average:
            average.assign(ops.copy(average))


def _concatenate(batches):
    if isinstance(batches[0], dict):
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return [text for batch in batches for text in batch]
