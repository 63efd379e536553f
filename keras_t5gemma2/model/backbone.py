"""The model without a head: ids and images in, hidden states out. Long by its docstrings."""

from collections.abc import Mapping
from typing import Any, Self

import keras
import keras_hub

from keras_t5gemma2.adapters.through_task import AdaptsThroughTask
from keras_t5gemma2.arguments import check_constructor, check_loading
from keras_t5gemma2.checkpoints import formats
from keras_t5gemma2.checkpoints.keras_hub.writer import save as save_for_keras_hub
from keras_t5gemma2.checkpoints.own.files import finish_preset, write_preset_card
from keras_t5gemma2.checkpoints.saving import (
    IMPORT,
    SavesModels,
    SavesPresets,
    by_one_process,
    check_reads_adapters,
)
from keras_t5gemma2.checkpoints.transformers.writer import write_transformers
from keras_t5gemma2.compat.jax_trainer import keep_state
from keras_t5gemma2.config import BackboneConfig
from keras_t5gemma2.files.config_objects import check_parts
from keras_t5gemma2.messages import shown
from keras_t5gemma2.model.embedder import DecoderEmbedder, Embedder
from keras_t5gemma2.model.from_checkpoint import load_backbone
from keras_t5gemma2.model.inputs import completed, completed_spec, of_encoder, symbolic_inputs
from keras_t5gemma2.model.quantize import Quantizes
from keras_t5gemma2.model.saved_config import checked_fields
from keras_t5gemma2.model.stacks import Decoder, Encoder
from keras_t5gemma2.model.vision import Vision
from keras_t5gemma2.quantization import plans
from keras_t5gemma2.quantization.counting import SummarizesParameters
from keras_t5gemma2.registry import presets
from keras_t5gemma2.sharding import layouts as sharding
from keras_t5gemma2.sharding.layout_map import get_layout_map
from keras_t5gemma2.typing import (
    DType,
    EmbeddingTable,
    FileDType,
    PathLike,
    QuantizationMode,
    Tensor,
)

# Arguments that a preset gives, and nobody else.
_IN_A_PRESET = ("config", "quantized_layers", "rounds_activations")


@keras.saving.register_keras_serializable(package="keras_t5gemma2")
class T5Gemma2Backbone(
    SavesPresets,
    SavesModels,
    AdaptsThroughTask,
    SummarizesParameters,
    Quantizes,
    keras_hub.models.Backbone,
):
    """The hidden states of a T5Gemma 2 encoder-decoder, or of its encoder alone.

    Inputs, a dict:

    - `encoder_token_ids`: (batch, encoder length) integers.
    - `encoder_padding_mask`: the same shape, 0 where the token is padding.
    - `decoder_token_ids`, `decoder_padding_mask`: (batch, decoder length).
    - `images`, where the model has a vision tower: (batch, images, height, width, 3) floats in
      [-1, 1], or left out, which is the same as no images. The image tokens of a row are filled
      with the features of that row's images, in order.
    - `image_features`, in place of `images`: (batch, images, tokens_per_image, hidden_dim of the
      tower) floats, what the vision tower makes of images; then it does not run.

    Outputs, a dict: `encoder_sequence_output` (batch, encoder length, hidden_dim) and
    `decoder_sequence_output` (batch, decoder length, hidden_dim). What stands at padding in an
    output has no meaning.

    Where `config.decoder` is `None`, as `from_preset(encoder_only=True)` makes it, there is no
    decoder and `decoder` is `None`; neither its inputs nor its output are there.

    The vision tower (`vision.tower`) is frozen, as published, and nothing is differentiated
    through it. Set `backbone.vision.tower.trainable = True` before `compile` to train it too.

    Args:
        config: `BackboneConfig`, or the dict that its `to_dict` gives.
        dtype: string or `keras.DTypePolicy`, for every part of the model.
        gradient_checkpointing: bool. Whether training keeps one hidden state per layer and
            computes the rest again in the backward pass: less memory for a forward pass more.
            May be set at any time.
        quantized_layers: dict of modes, such as "int8" or "int4/32" (blocks of 32), by the paths
            of layers. These are built with integers, whose values are to be loaded. As
            `quantize` leaves it in the config.
        rounds_activations: bool. Whether those of 8 bits round their inputs to 8 bits too.
        source: string. What the weights derive from, as Hugging Face has it
            ("google/t5gemma-2-270m-270m"), or "unknown"; `None` for weights that were random at
            first. `from_preset` sets it, and what is saved or uploaded says it, with the terms
            that it brings. May be set at any time.

    Example:

    >>> backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny")
    >>> ids = {"encoder_token_ids": np.ones((2, 7)), "decoder_token_ids": np.ones((2, 3))}
    >>> masks = {"encoder_padding_mask": np.ones((2, 7)), "decoder_padding_mask": np.ones((2, 3))}
    >>> outputs = backbone({**ids, **masks})
    >>> tuple(outputs["decoder_sequence_output"].shape)
    (2, 3, 128)
    """

    generation = 2  # of the models that the class is for
    presets = presets  # those that `from_preset` knows by name
    _replaced_files = ("model*.weights.h5", "model.weights.json", "task.weights.h5")

    def __init__(
        self,
        config: BackboneConfig | dict[str, Any],
        dtype: DType | None = None,
        gradient_checkpointing: bool = False,
        quantized_layers: Mapping[str, str] | None = None,
        rounds_activations: bool = False,
        source: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_constructor(self, kwargs)
        if isinstance(config, dict):
            config = BackboneConfig.from_dict(config)
        formats.check_class(type(self), config.generation, f"config={shown(config)}")
        self.config = config
        keep_state()
        plan = plans.plan_of_modes(quantized_layers, rounds_activations)
        with sharding.fitting(config), plans.planned(plan):
            super().__init__(**self._build(config, dtype), dtype=dtype, **kwargs)
            self._check_plan(quantized_layers)
        sharding.lay_out(self.variables, config)
        self.gradient_checkpointing = gradient_checkpointing
        self.source = source
        if self.vision is not None:
            self.vision.tower.trainable = False

    def _build(self, config, dtype):
        """Makes the layers, and gives the inputs and outputs of the graph of their calls."""
        self.embedder = Embedder(config, dtype=dtype, name="embedder")
        self.vision = config.vision and Vision(config, dtype=dtype, name="vision")
        self.encoder = Encoder(config.encoder, dtype=dtype, name="encoder")
        self.decoder = config.decoder and Decoder(config.decoder, dtype=dtype, name="decoder")
        self.decoder_embedder = None
        if config.decoder_table:
            self.decoder_embedder = DecoderEmbedder(config, dtype=dtype, name="decoder_embedder")
        self.token_embedding = (self.decoder_embedder or self.embedder).table

        inputs = symbolic_inputs(config)
        seen = inputs["encoder_padding_mask"]
        images = inputs.get("images"), inputs.get("image_features")
        encoded = self.encode(inputs["encoder_token_ids"], seen, *images)
        if self.decoder is None:
            return {"inputs": inputs, "outputs": {"encoder_sequence_output": encoded}}
        x = self.embed_decoder(inputs["decoder_token_ids"])
        decoded = self.decoder(x, inputs["decoder_padding_mask"], encoded, seen)
        outputs = {"encoder_sequence_output": encoded, "decoder_sequence_output": decoded}
        return {"inputs": inputs, "outputs": outputs}

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether training computes hidden states again in the backward pass; settable.

        Example:

        >>> backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny")
        >>> backbone.gradient_checkpointing = True
        >>> backbone.gradient_checkpointing
        True
        """
        return self.encoder.gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        for stack in (*self.stacks, *([self.vision.tower] if self.vision else ())):
            stack.gradient_checkpointing = bool(value)

    @property
    def stacks(self) -> list[keras.layers.Layer]:
        """The encoder and, unless the model is an encoder alone, the decoder.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2Backbone
        >>> backbone = cls.from_preset("t5gemma2_tiny", encoder_only=True)
        >>> [stack.name for stack in backbone.stacks]
        ['encoder']
        """
        return [self.encoder] if self.decoder is None else [self.encoder, self.decoder]

    def embed_decoder(self, token_ids: Tensor) -> Tensor:
        """What the decoder reads of ids (batch, decoder length): (batch, length, its width).

        Example:

        >>> backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny")
        >>> tuple(backbone.embed_decoder(np.ones((1, 3), "int32")).shape)
        (1, 3, 128)
        """
        return (self.decoder_embedder or self.embedder)(token_ids)

    def encode(
        self,
        token_ids: Tensor,
        padding_mask: Tensor,
        images: Tensor | None = None,
        image_features: Tensor | None = None,
        layer: int | None = None,
    ) -> Tensor:
        """The encoder's output, (batch, encoder length, hidden_dim), or the output of a layer.

        Args:
            token_ids: (batch, encoder length) integers.
            padding_mask: the same shape, 0 where the token is padding.
            images: as the input of that name, or `None`.
            image_features: as the input of that name, or `None`.
            layer: int. Which hidden states, as the reference numbers its `hidden_states`: 0 for
                the embedded tokens, i for the output of the i-th layer, and for the last one, or
                -1, that of the norm behind it, as without `layer`. -2 is the output of the last
                layer but one. Layers behind it do not run.

        Raises:
            ValueError: there is no such layer.

        Example:

        >>> backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny")
        >>> ids = np.ones((1, 3), "int32")
        >>> tuple(backbone.encode(ids, padding_mask=ids).shape)
        (1, 3, 128)
        >>> tuple(backbone.encode(ids, padding_mask=ids, layer=-2).shape)
        (1, 3, 128)
        """
        x = self.embedder(token_ids)
        if images is not None or image_features is not None:
            x = self.vision(x, token_ids, images, image_features)
        if layer is None:
            return self.encoder(x, padding_mask)
        return self.encoder(x, padding_mask, num_layers=self.encoder.checked_layer(layer))

    def __call__(self, inputs: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        return super().__call__(self.complete(inputs), *args, **kwargs)

    def call(
        self,
        inputs: Mapping[str, Tensor],
        training: bool | None = None,
        mask: Tensor = None,
        **kwargs: Any,
    ) -> Any:
        # Keras's trainer on JAX comes here without `__call__`.
        return super().call(self.complete(inputs), training=training, mask=mask, **kwargs)

    def compute_output_spec(
        self, inputs: Mapping[str, Tensor], training: bool | None = None, mask: Tensor = None
    ) -> Any:
        return super().compute_output_spec(self.complete_spec(inputs), training, mask)

    def complete(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`inputs` as tensors; where the model takes images and none are given, an empty batch.

        Of symbolic inputs, those that are missing are `None`.

        Raises:
            ValueError: `image_features` are not those of this model's vision tower.

        Example:

        >>> backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny")
        >>> ids = np.ones((1, 3))
        >>> names = ("encoder_token_ids", "encoder_padding_mask")
        >>> names += ("decoder_token_ids", "decoder_padding_mask")
        >>> tuple(backbone.complete(dict.fromkeys(names, ids))["images"].shape)
        (1, 0, 32, 32, 3)
        """
        return completed(self._read(inputs), self.config.vision)

    def complete_spec(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Symbolic `inputs`; an empty batch of images in place of none.

        Example:

        >>> backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny")
        >>> spec = keras.KerasTensor((None, 3), "int32")
        >>> names = ("encoder_token_ids", "encoder_padding_mask")
        >>> names += ("decoder_token_ids", "decoder_padding_mask")
        >>> backbone.complete_spec(dict.fromkeys(names, spec))["images"].shape
        (None, 0, 32, 32, 3)
        """
        return completed_spec(self._read(inputs), self.config.vision)

    def _read(self, inputs):
        return of_encoder(inputs) if self.decoder is None else inputs

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "trainable": self.trainable,
            # keras-hub's own would put the layers that are quantized here, which it cannot read.
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "config": self.config.to_dict(),
            "gradient_checkpointing": self.gradient_checkpointing,
            "quantized_layers": self.quantized_layers,
            "rounds_activations": self.rounds_activations,
            "source": self.source,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        check_parts(cls, config)
        adapters = config.get("adapters", ())
        check_reads_adapters(adapters)
        fields = {k: v for k, v in config.items() if k != "adapters"}
        return super().from_config({**fields, **checked_fields(cls, fields)})

    def _finish_preset(self, directory, place):
        finish_preset(directory, self)
        write_preset_card(directory, place, self)

    @classmethod
    def from_preset(
        cls,
        preset: PathLike,
        load_weights: bool = True,
        text_only: bool = False,
        embeddings: EmbeddingTable | None = None,
        quantize: QuantizationMode | Mapping[str, Any] | None = None,
        allow_nonfinite: bool = False,
        encoder_only: bool = False,
        rope_factor: float | None = None,
        **kwargs: Any,
    ) -> "T5Gemma2Backbone":
        """The backbone of a preset or of a published checkpoint.

        Args:
            preset: a name of `keras_t5gemma2.presets`, `hf://organization/repository`, a local
                directory in the reference's format, a preset directory, or any other handle
                that keras-hub knows. A preset may also be one of keras-hub's own T5Gemma 2.
            load_weights: bool. If false, the weights are random.
            text_only: bool. If true, the vision tower is neither built nor read.
            embeddings: "encoder", "decoder" or "mean": which of its two embedding tables is
                taken from a preset of keras-hub's own T5Gemma 2, or their mean. `None` takes the
                one table that both are where nobody has trained them apart.
            quantize: "int8", "int4" or a config, or a dict of arguments of `quantize`: weights
                of floats are quantized one by one as they are read, so that memory for the
                integers is enough.
            allow_nonfinite: bool. Whether weights may be NaN or infinite; otherwise they are
                refused, with the name of their tensor.
            encoder_only: bool. If true, the decoder is neither built nor read. A directory of an
                encoder alone, such as one whose `model_type` is t5gemma2_encoder, gives one
                anyway.
            rope_factor: float. What layers of full attention divide positions by, instead of what
                the preset says, to fine-tune for texts that are longer than those of training; see
                `BackboneConfig.with_rope_factor`. It is saved with the model.
            **kwargs: `dtype`, `name`, `trainable`.

        Raises:
            FileNotFoundError, PermissionError, ConnectionError: the files cannot be had; the
                message says why and what to do.
            TypeError: there is no such argument; the message names the nearest.
            ValueError: a file is not what it should be; the message names the tensor or key.

        Example:

        >>> cls = keras_t5gemma2.T5Gemma2Backbone
        >>> backbone = cls.from_preset("t5gemma2_tiny", text_only=True, dtype="bfloat16")
        >>> backbone.vision, backbone.compute_dtype
        (None, 'bfloat16')
        """
        check_loading(cls, "from_preset", kwargs, _IN_A_PRESET)
        parts = text_only, embeddings, encoder_only, rope_factor
        checkpoint, preset = formats.open_checkpoint(preset, load_weights, *parts, cls=cls)
        if checkpoint is not None:
            how = load_weights, quantize, allow_nonfinite
            return load_backbone(cls.class_of_presets(), checkpoint, *how, **kwargs)
        options = {"quantize": quantize, "allow_nonfinite": allow_nonfinite}
        options |= {"text_only": text_only, "encoder_only": encoder_only}
        options["rope_factor"] = rope_factor
        formats.check_only_keras(preset, embeddings, **options)
        return super().from_preset(preset, load_weights, **kwargs)

    @classmethod
    def class_of_presets(cls) -> "type[T5Gemma2Backbone]":
        """The class of this package that a preset gives, whatever is derived from it.

        Example:

        >>> keras_t5gemma2.T5Gemma2Backbone.class_of_presets().__name__
        'T5Gemma2Backbone'
        """
        return T5Gemma2Backbone

    get_layout_map = staticmethod(get_layout_map)

    @by_one_process
    def export_to_transformers(
        self, path: PathLike, dtype: FileDType = None, max_shard_size: int | str = "5GB"
    ) -> None:
        """As that of `T5Gemma2Seq2SeqLM`, without a tokenizer and a processor.

        Args:
            path: path of the directory.
            dtype: "float32", "bfloat16" or "float16" for all weights, or `None` for what each
                one has.
            max_shard_size: int or string such as "5GB".

        Raises:
            ValueError: as that of the task.

        Example:

        >>> backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny")
        >>> backbone.export_to_transformers(directory)
        >>> sorted(path.name for path in directory.iterdir())
        ['README.md', 'config.json', 'generation_config.json', 'model.safetensors']
        """
        write_transformers(path, self, None, dtype, max_shard_size)

    @by_one_process
    def save_to_keras_hub_preset(self, path: PathLike, max_shard_size: float = 10) -> None:
        """Writes a preset that `keras_hub.models.T5Gemma2Backbone.from_preset` loads.

        Args:
            path: path of the directory. What is there stays as it is until all is written.
            max_shard_size: int or float. The largest size of one file of weights, in GiB.

        Raises:
            ValueError: the model has sizes that keras-hub's cannot be given, adapters that are
                not merged, or quantized weights.

        Example:

        >>> backbone = keras_t5gemma2.T5Gemma2Backbone.from_preset("t5gemma2_tiny")
        >>> backbone.save_to_keras_hub_preset(directory)
        >>> sorted(path.name for path in directory.iterdir())
        ['README.md', 'config.json', 'metadata.json', 'model.weights.h5']
        """
        save_for_keras_hub(path, self, max_shard_size=max_shard_size)


def register_for_import(cls):
    """Registers a backbone under another name too, for the `config.json` of presets.

    Where this package has not been imported, it is what keras-hub says that it does not know.
    """
    name = f"{IMPORT}{keras.saving.get_registered_name(cls)}"
    keras.saving.get_custom_objects()[name] = cls
    return cls


register_for_import(T5Gemma2Backbone)
