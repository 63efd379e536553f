"""What a task writes for others to read."""

from keras_t5gemma2.saving import by_one_process
from keras_t5gemma2.tasks.adapter_files import SavesAdapters


class Exports(SavesAdapters):
    """A task that is written in the formats of other libraries."""

    @by_one_process
    def export_to_transformers(self, path, dtype=None, max_shard_size="5GB", adapters="merge"):
        """Writes a directory that the transformers library loads, laid out as the published ones.

        `AutoModelForImageTextToText.from_pretrained(path)` gives the model, and
        `AutoProcessor.from_pretrained(path)` what makes its inputs; `from_preset(path)` reads the
        directory back, to the bit where `dtype` is `None`. Tensors are written one by one, so
        that little more memory is needed than the model has.

        A text-only model has a vision tower without layers there, since that library knows no
        other, and a tokenizer (`AutoTokenizer`) instead of a processor. The sampling settings are
        those of the published models.

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

        >>> import tempfile
        >>> from keras_t5gemma2 import (
        ...     AttentionConfig, BackboneConfig, StackConfig, T5Gemma2Backbone, T5Gemma2Seq2SeqLM
        ... )
        >>> local = AttentionConfig(num_heads=4, num_kv_heads=1, head_dim=8, window=6)
        >>> stack = StackConfig(hidden_dim=32, mlp_dim=48, layers=(local,))
        >>> config = BackboneConfig(vocabulary_size=101, encoder=stack, decoder=stack)
        >>> lm = T5Gemma2Seq2SeqLM(T5Gemma2Backbone(config))
        >>> path = tempfile.mkdtemp()
        >>> lm.export_to_transformers(path, dtype="bfloat16")
        >>> lm = T5Gemma2Seq2SeqLM.from_preset(path, preprocessor=None)
        >>> lm.backbone.config == config
        True
        """
        from keras_t5gemma2.checkpoints import transformers_writer

        if adapters not in ("merge", "peft"):
            raise ValueError(f"`adapters` must be 'merge' or 'peft'. Received: {adapters=}")
        configs = None
        if adapters == "peft":
            self._check_not_merged("the base weights are exported")
            configs = self._adapter_configs
        transformers_writer.write_transformers(
            path, self.backbone, self.preprocessor, dtype, max_shard_size, configs
        )
