"""What a task writes for others to read."""

from keras_t5gemma2.adapters.files import SavesAdapters
from keras_t5gemma2.checkpoints import hub_upload
from keras_t5gemma2.checkpoints.saving import by_one_process
from keras_t5gemma2.checkpoints.transformers import writer as transformers_writer
from keras_t5gemma2.export import runtimes
from keras_t5gemma2.files.disk import local_path
from keras_t5gemma2.messages import short_errors, shown


class Exports(SavesAdapters):
    """A task that is written in the formats of other libraries."""

    def export(
        self,
        filepath,
        format="tf_saved_model",
        verbose=None,
        input_signature=None,
        *,
        batch_size=None,
        encoder_length=None,
        decoder_length=None,
        prompt_length=1,
        images=None,
        **kwargs,
    ):
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

        Active adapters, quantized weights and a cache in int8 are a part of them. Rows whose
        images are fewer than `images` are filled up with any others: only as many are looked at
        as a row has image tokens for.

        | format | backend | what is written | sizes |
        | --- | --- | --- | --- |
        | "tf_saved_model" | TensorFlow | a directory | any batch, encoder length and images |
        | "tf_saved_model" | JAX | a directory | any batch; the others are fixed |
        | "litert" | TensorFlow | a `.tflite` file with three signatures | fixed |
        | "torch" | PyTorch | a directory of `encode.pt2`, `prefill.pt2`, `step.pt2` | fixed |

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
            **kwargs: for "litert", attributes of TensorFlow's converter, such as `optimizations`.

        Raises:
            ValueError: the backend cannot write the format, a size is missing or not possible,
                or the format has no place for this model; the message says which.
            ImportError: TensorFlow is needed and not installed.

        Example: greedy text by TensorFlow alone.

            lm.export("exported", batch_size=1, encoder_length=512, decoder_length=128, images=0)

            import numpy as np
            import tensorflow as tf

            model = tf.saved_model.load("exported")
            # The token ids come from `lm.preprocessor.tokenizer`, or any other that reads its file.
            memory = model.encode({"encoder_token_ids": ids, "encoder_padding_mask": mask})
            start = np.full((1, 1), 2, "int32")
            prompt = {"decoder_token_ids": start, "decoder_padding_mask": start * 0 + 1}
            state, new = model.prefill({**prompt, **memory}), []
            while len(new) < 127:
                token = tf.argmax(state.pop("logits"), axis=-1, output_type=tf.int32)
                if token == 1:
                    break
                new.append(int(token[0]))
                state = model.step({"token_ids": token, **memory, **state})
        """
        filepath = local_path(filepath)
        if input_signature is not None:
            with short_errors():
                return super().export(filepath, format, verbose, input_signature, **kwargs)
        sizes = runtimes.Sizes(batch_size, encoder_length, prompt_length, decoder_length, images)
        runtimes.export(self, filepath, format, sizes, kwargs)
        if verbose is None or verbose:
            print(f"Saved artifact at '{filepath}'.")

    @by_one_process
    def export_to_transformers(self, path, dtype=None, max_shard_size="5GB", adapters="merge"):
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
        if adapters not in ("merge", "peft"):
            raise ValueError(
                f"`adapters` must be 'merge' or 'peft'. Received: adapters={shown(adapters)}"
            )
        configs = None
        if adapters == "peft":
            self._check_not_merged("the base weights are exported")
            configs = self._adapter_configs
        transformers_writer.write_transformers(
            path,
            self.backbone,
            self.preprocessor,
            dtype,
            max_shard_size,
            configs,
            self._metrics_of_fit(),
        )

    @by_one_process
    def push_to_hub(self, repo_id, private=None, commit_message=None):
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

            lm.push_to_hub("me/french", private=True)
        """
        return hub_upload.push(self, repo_id, private, commit_message, self._replaced_files)
