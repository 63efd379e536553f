"""The SigLIP vision tower, and how its features fill the image tokens of the text."""

import functools

from keras import initializers, layers, ops

from keras_t5gemma2 import kernels
from keras_t5gemma2.config import BackboneConfig, VisionConfig
from keras_t5gemma2.kernels import KeyValues, Window
from keras_t5gemma2.layer_config import Configured, registered
from keras_t5gemma2.model.array_checks import check_image_features
from keras_t5gemma2.model.gradient_checkpointing import recomputed
from keras_t5gemma2.model.linear import vision_linear
from keras_t5gemma2.model.norm import RMSNorm
from keras_t5gemma2.model.residual import sum_dtype, take_sums


@registered
class Vision(Configured, layers.Layer):
    """Fills the image tokens of each row with the features of that row's images, in order.

    Args:
        config: `BackboneConfig` with a `vision` part.
    """

    arguments = {"config": BackboneConfig}

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        take_sums(self)
        self.config = config
        self.tower = VisionTower(config.vision, dtype=self.dtype_policy, name="tower")
        self.projector = Projector(
            config.vision, config.hidden_dim, dtype=self.dtype_policy, name="projector"
        )

    def build(self, x_shape):
        vision = self.config.vision
        self.tower.build((None, vision.image_size, vision.image_size, 3))
        self.projector.build((None, vision.tokens_per_image, vision.hidden_dim))
        self.built = True

    def call(self, x, token_ids, images=None, image_features=None, training=False):
        """`x` of (B, S, D) with what is seen in the images at its image tokens.

        Args:
            x: (B, S, D) embeddings.
            token_ids: (B, S) integers.
            images: (B, n, height, width, 3) in [-1, 1], or `None`.
            image_features: (B, n, tokens_per_image, hidden_dim of the tower) as `features` gives
                them, or `None`; one of the two has no images.
            training: bool.

        With no images (n = 0) the image tokens keep their embedding and nothing is computed.

        Raises:
            ValueError: `image_features` are not those of this tower.
        """
        if image_features is not None:
            check_image_features(self.config.vision, image_features)
        given = [y for y in (images, image_features) if y is not None and 0 not in y.shape[1:]]
        if not given:
            return x
        features = [y if y is image_features else self.features(y, training) for y in given]
        features = [ops.cast(y, self.compute_dtype) for y in features]
        tokens = self.projector(ops.concatenate(features, axis=1))
        count = ops.shape(tokens)[1] * tokens.shape[2]
        flat = ops.reshape(tokens, (ops.shape(x)[0], count, tokens.shape[3]))
        return fill_image_tokens(flat, x, ops.equal(token_ids, self.config.image_token_id))

    def features(self, images, training=False):
        """(B, n, tokens_per_image, tower's hidden_dim) of images of (B, n, height, width, 3)."""
        vision, (rows, count) = self.config.vision, ops.shape(images)[:2]
        flat = ops.reshape(images, (-1, vision.image_size, vision.image_size, 3))
        features = self.tower(flat, training=training)
        if not self.tower.trainable_weights:
            # TensorFlow's tape would follow it to the pixels, although nobody asks for that.
            features = ops.stop_gradient(features)
        return ops.reshape(features, (rows, count, vision.tokens_per_image, vision.hidden_dim))

    @property
    def trainable(self):
        return super().trainable

    @trainable.setter
    def trainable(self, value):
        """Sets all layers but a tower that was frozen itself, which stays frozen."""
        is_tower_trained = self.tower.is_trained
        layers.Layer.trainable.fset(self, value)
        self.tower.trainable = value and is_tower_trained
        self.tower.is_trained = is_tower_trained

    def compute_output_shape(
        self, x_shape, token_ids_shape, images_shape=None, image_features_shape=None
    ):
        return x_shape


@registered
class VisionTower(Configured, layers.Layer):
    """Images of (B, height, width, 3) to features of (B, tokens_per_image, D), row by row.

    Reference: `SiglipVisionModel` without its head, and the average over cells of patches that
    is the first part of the reference's projector: up to here nothing is trained, as published.

    Args:
        config: `VisionConfig`.
        gradient_checkpointing: bool, as `Stack` has it.
    """

    arguments = {"config": VisionConfig, "gradient_checkpointing": None}
    is_trained = True  # what `trainable` of the tower itself was last set to

    def __init__(self, config, gradient_checkpointing=False, **kwargs):
        super().__init__(autocast=False, **kwargs)  # as `Stack`
        self.config = config
        self.gradient_checkpointing = gradient_checkpointing
        self.patch_embedding = PatchEmbedding(
            config.hidden_dim,
            kernel_size=config.patch_size,
            strides=config.patch_size,
            padding="valid",
            data_format="channels_last",
            dtype=self.dtype_policy,
            name="patch_embedding",
        )
        self.blocks = [
            VisionBlock(config, dtype=self.dtype_policy, name=f"layer_{i}")
            for i in range(config.num_layers)
        ]
        self.norm = _layer_norm(self, "norm")

    def build(self, shape):
        self.patch_embedding.build(shape)
        patches = (self.config.patches_per_side**2, self.config.hidden_dim)
        self.position_embedding = self.add_weight(
            name="position_embedding",
            shape=patches,
            initializer=initializers.RandomNormal(stddev=0.02),
        )
        for layer in (*self.blocks, self.norm):
            layer.build((None, *patches))
        self.built = True

    def call(self, images, training=False):
        patches = self.patch_embedding(images)
        count, width = self.position_embedding.shape
        x = ops.cast(ops.reshape(patches, (-1, count, width)), sum_dtype(self.compute_dtype))
        x = x + ops.cast(self.position_embedding, x.dtype)
        for block in self.blocks:
            if training and self.gradient_checkpointing:
                x = recomputed(block, functools.partial(block, training=True), x)
            else:
                x = block(x, training=training)
        return self._average(self.norm(x))

    @property
    def trainable(self):
        return super().trainable

    @trainable.setter
    def trainable(self, value):
        layers.Layer.trainable.fset(self, value)
        self.is_trained = bool(value)

    def _average(self, patches):
        """One token for each square cell of patches."""
        side, width = self.config.tokens_per_side, self.config.hidden_dim
        cell = self.config.patches_per_side // side
        grid = ops.reshape(patches, (-1, side, cell, side, cell, width))
        cells = ops.mean(ops.cast(grid, "float32"), axis=(2, 4))
        return ops.reshape(ops.cast(cells, patches.dtype), (-1, side * side, width))


@registered
class PatchEmbedding(layers.Conv2D):
    """A convolution whose patches do not overlap, computed as the one product that it is.

    A batch without images has a gradient then, too: that of TensorFlow's convolution fails.
    """

    def call(self, images):
        (size, _), channels = self.kernel_size, images.shape[-1]
        rows, columns = images.shape[1] // size, images.shape[2] // size
        images = images[:, : rows * size, : columns * size]
        patches = ops.reshape(images, (-1, rows, size, columns, size, channels))
        patches = ops.transpose(patches, (0, 1, 3, 2, 4, 5))
        patches = ops.reshape(patches, (-1, rows, columns, size * size * channels))
        # Product and sum are rounded once, as in a convolution.
        patches, kernel, bias = (ops.cast(x, "float32") for x in (patches, self.kernel, self.bias))
        product = ops.matmul(patches, ops.reshape(kernel, (-1, self.filters)))
        return ops.cast(product + bias, images.dtype)


@registered
class VisionBlock(Configured, layers.Layer):
    """One pre-norm layer of the tower: attention of every patch to every patch, then an MLP."""

    arguments = {"config": VisionConfig}

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        take_sums(self)
        self.config = config
        self.attention_norm = _layer_norm(self, "attention_norm")
        self.query = vision_linear(self, "query", config.hidden_dim)
        self.key = vision_linear(self, "key", config.hidden_dim)
        self.value = vision_linear(self, "value", config.hidden_dim)
        self.output_dense = vision_linear(self, "output", config.hidden_dim)
        self.mlp_norm = _layer_norm(self, "mlp_norm")
        self.up = vision_linear(self, "up", config.mlp_dim)
        self.down = vision_linear(self, "down", config.hidden_dim)
        self.dropout = layers.Dropout(config.dropout, dtype="float32", name="dropout")

    def build(self, shape):
        attention = self.attention_norm, self.query, self.key, self.value, self.output_dense
        for layer in (*attention, self.mlp_norm, self.up):
            layer.build(shape)
        self.down.build((*shape[:-1], self.config.mlp_dim))
        self.built = True

    def call(self, x, training=False):
        y = self.attention_norm(x)
        query, key, value = (self._heads(f(y)) for f in (self.query, self.key, self.value))
        segments = [(KeyValues(key, value, positions=None), Window())]
        scale = (self.config.hidden_dim // self.config.num_heads) ** -0.5
        drop = self._drop if training and self.config.dropout else None
        mixed = kernels.attend(query, None, segments, scale, drop=drop)
        x = x + ops.cast(self.output_dense(kernels.merge_heads(mixed)), x.dtype)
        return x + ops.cast(self.down(kernels.gelu(self.up(self.mlp_norm(x)))), x.dtype)

    def _drop(self, probabilities):
        return self.dropout(probabilities, training=True)

    def _heads(self, x):
        return kernels.split_heads(x, self.config.hidden_dim // self.config.num_heads)


@registered
class Projector(Configured, layers.Layer):
    """Features of the tower to the tokens of the encoder: norm and projection.

    Args:
        config: `VisionConfig`.
        hidden_dim: int. Width of the encoder.
    """

    arguments = {"config": VisionConfig, "hidden_dim": None}

    def __init__(self, config, hidden_dim, **kwargs):
        super().__init__(**kwargs)
        self.config, self.hidden_dim = config, hidden_dim
        self.norm = RMSNorm(config.norm_epsilon, dtype=self.dtype_policy, name="norm")
        self.projection = vision_linear(self, "projection", hidden_dim, use_bias=False)

    def build(self, shape):
        self.norm.build((None, None, self.config.hidden_dim))
        self.projection.build((None, None, self.config.hidden_dim))
        self.built = True

    def call(self, features):
        return self.projection(self.norm(features))


def fill_image_tokens(features, x, is_image):
    """`x` of (B, S, D) with `features` (B, M, D) at its image tokens, each row's own, in order.

    Image tokens beyond a row's M-th keep their embedding.
    """
    count = ops.shape(features)[1]
    order = ops.cumsum(ops.cast(is_image, "int32"), axis=1) - 1
    is_filled = ops.logical_and(is_image, order < count)
    row = ops.expand_dims(ops.arange(ops.shape(x)[0], dtype="int32"), 1)
    index = row * count + ops.where(is_filled, order, 0)
    # One row more: a batch whose number of images only shows at run time may have none.
    flat = ops.pad(ops.reshape(features, (-1, features.shape[-1])), [(0, 1), (0, 0)])
    taken = ops.cast(ops.take(flat, index, axis=0), x.dtype)
    return ops.where(ops.expand_dims(is_filled, -1), taken, x)


def _layer_norm(layer, name):
    norm = layers.LayerNormalization(
        epsilon=layer.config.norm_epsilon, dtype=layer.dtype_policy, name=name
    )
    return take_sums(norm)
