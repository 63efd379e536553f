"""Trains `t5gemma2_tiny`, the preset inside the package, from pip packages alone.

    pip install ".[torch,tiny]"
    KERAS_BACKEND=torch python tools/tiny/train.py --output keras_t5gemma2/embedded/t5gemma2_tiny

The work directory holds the state of the last epoch: the same command goes on from there after an
interruption, with the same result.
"""

import argparse
import io
import pathlib

import data
import keras
import numpy as np
import sentencepiece

from keras_t5gemma2 import (
    AttentionConfig,
    BackboneConfig,
    StackConfig,
    T5Gemma2Backbone,
    T5Gemma2ImageConverter,
    T5Gemma2Seq2SeqLM,
    T5Gemma2Seq2SeqLMPreprocessor,
    T5Gemma2Tokenizer,
    VisionConfig,
)

VOCABULARY_SIZE = 2560
TOKENS_PER_IMAGE = 4

# Images of each row in the batches of a group of steps: as many in all rows of a batch, so that
# no tower runs on padding.
IMAGE_COUNTS = (0, 0, 1, 0, 0, 2, 0, 0, 1, 0, 0, 3)


def main():
    arguments = _arguments()
    keras.utils.set_random_seed(arguments.seed)
    work = pathlib.Path(arguments.work_directory)
    work.mkdir(parents=True, exist_ok=True)
    sampler = data.Sampler(data.Digits())

    tokenizer = train_tokenizer(work / "tokenizer.model", sampler, arguments.seed)
    lm = tiny_model(tokenizer)
    lm.summary()
    train(lm, sampler, work, arguments)
    lm.backbone.source = "t5gemma2_tiny"
    write_preset(lm, arguments.output)
    print(f"Saved to {arguments.output}")


def write_preset(lm, directory):
    """Writes the preset with its weights in bfloat16: half the bytes, of which models of any dtype
    are made.

    Args:
        lm: `T5Gemma2Seq2SeqLM`.
        directory: path.
    """
    lm.save_to_preset(directory)
    half = T5Gemma2Seq2SeqLM.from_preset(directory, dtype="bfloat16")
    half.backbone.save_weights(pathlib.Path(directory) / "model.weights.h5", overwrite=True)


def train_tokenizer(path, sampler, seed, examples=60_000):
    """A byte-pair vocabulary with the special tokens of Gemma at their roles."""
    if not path.exists():
        rng = np.random.default_rng([seed, 1])
        rows = (sampler.text(rng) for _ in range(examples))
        texts = (text for row in rows for text in (row.encoder_text, row.decoder_text))
        questions = [sampler.images(rng, 2).encoder_text for _ in range(examples // 10)]
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*texts, *questions]),
            model_writer=model,
            model_type="bpe",
            vocab_size=VOCABULARY_SIZE,
            character_coverage=1.0,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            user_defined_symbols=[*_special_tokens(), "\n", "\n\n"],
            pad_id=0,
            eos_id=1,
            bos_id=2,
            unk_id=3,
            pad_piece="<pad>",
            eos_piece="<eos>",
            bos_piece="<bos>",
            unk_piece="<unk>",
            num_threads=1,
            minloglevel=1,
        )
        path.write_bytes(model.getvalue())
    return T5Gemma2Tokenizer(path.read_bytes())


def _special_tokens():
    image = (data.IMAGE, "<end_of_image>", "<image_soft_token>")
    return [*image, "<start_of_turn>", "<end_of_turn>", *data.SENTINELS]


def tiny_model(tokenizer):
    """The model with random weights, small in every size and complete in its parts."""
    heads = {"num_heads": 4, "num_kv_heads": 1, "head_dim": 32, "query_pre_attn_scalar": 32.0}
    local = AttentionConfig(**heads, window=16)
    full = AttentionConfig(**heads, rope_theta=1_000_000.0)
    stack = StackConfig(hidden_dim=128, mlp_dim=512, layers=(local, full, local))
    vision = VisionConfig(
        image_size=data.IMAGE_SIZE,
        patch_size=8,
        hidden_dim=96,
        mlp_dim=256,
        num_layers=3,
        num_heads=4,
        tokens_per_image=TOKENS_PER_IMAGE,
    )
    config = BackboneConfig(
        vocabulary_size=tokenizer.vocabulary_size(),
        encoder=stack,
        decoder=stack,
        vision=vision,
        end_of_image_token_id=tokenizer.end_of_image_token_id,
        image_token_id=tokenizer.image_token_id,
    )
    preprocessor = T5Gemma2Seq2SeqLMPreprocessor(
        tokenizer,
        T5Gemma2ImageConverter((data.IMAGE_SIZE, data.IMAGE_SIZE)),
        encoder_sequence_length=64,
        decoder_sequence_length=48,
        tokens_per_image=TOKENS_PER_IMAGE,
    )
    lm = T5Gemma2Seq2SeqLM(T5Gemma2Backbone(config), preprocessor)
    _initialize(lm.backbone)
    return lm


def _initialize(backbone):
    """Weights as large as keep vectors of size 1 at that size.

    The layers' own initial weights are for models that start from Gemma 3. Here, with an embedding
    table of theirs, the layers would outweigh the tokens.
    """
    for variable in (*backbone.encoder.weights, *backbone.decoder.weights):
        if variable.name == "kernel":
            variable.assign(keras.random.normal(variable.shape, stddev=variable.shape[0] ** -0.5))
    table = backbone.token_embedding.embeddings
    table.assign(keras.random.normal(table.shape, stddev=table.shape[1] ** -0.5))


def train(lm, sampler, work, arguments, callbacks=()):
    work.mkdir(parents=True, exist_ok=True)
    lm.backbone.vision.tower.trainable = True  # its weights are random: nothing to keep
    epochs = -(-arguments.steps // arguments.epoch_steps)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        decay_steps=arguments.steps * 98 // 100,
        warmup_target=arguments.learning_rate,
        warmup_steps=arguments.steps * 2 // 100,
    )
    batches = Batches(lm.preprocessor, sampler, arguments)
    lm.compile(optimizer=keras.optimizers.Adam(rate, global_clipnorm=1.0), sampler="greedy")
    lm.fit(
        batches,
        epochs=epochs,
        shuffle=False,
        callbacks=[
            keras.callbacks.BackupAndRestore(str(work / "backup"), delete_checkpoint=False),
            keras.callbacks.LambdaCallback(on_epoch_begin=batches.begin),
            keras.callbacks.CSVLogger(str(work / "history.csv"), append=True),
            *callbacks,
        ],
        verbose=2 if arguments.quiet else "auto",
    )


class Batches(keras.utils.PyDataset):
    """Preprocessed batches that depend on the seed and the number of the step alone."""

    def __init__(self, preprocessor, sampler, arguments):
        super().__init__()
        self.preprocessor, self.sampler = preprocessor, sampler
        self.seed, self.batch_size = arguments.seed, arguments.batch_size
        self.epoch, self.epoch_steps = 0, arguments.epoch_steps
        self.group = None, None

    def begin(self, epoch, logs=None):
        self.epoch = epoch

    def __len__(self):
        return self.epoch_steps

    def __getitem__(self, index):
        group, place = divmod(self.epoch * self.epoch_steps + index, len(IMAGE_COUNTS))
        if count := IMAGE_COUNTS[place]:
            rng = np.random.default_rng([self.seed, 2, group, place])
            rows = [self.sampler.images(rng, count) for _ in range(self.batch_size // count)]
            return _trimmed(*self.preprocessor(data.rows_of(rows)))
        if self.group[0] != group:
            self.group = group, self._text_batches(group)
        return self.group[1][IMAGE_COUNTS[:place].count(0)]

    def _text_batches(self, group):
        """The text batches of a group of steps, each of rows of about the same length."""
        rng = np.random.default_rng([self.seed, 2, group])
        count = IMAGE_COUNTS.count(0)
        rows = [self.sampler.text(rng) for _ in range(count * self.batch_size)]
        arrays = self.preprocessor(data.rows_of(rows))
        encoder, decoder = (
            arrays[0][f"{stack}_padding_mask"].sum(axis=1) for stack in ("encoder", "decoder")
        )
        parts = np.split(np.lexsort((decoder, encoder // 4)), count)
        return [
            _trimmed(*keras.tree.map_structure(lambda array: array[parts[i]], arrays))  # noqa: B023
            for i in rng.permutation(count)
        ]


def _trimmed(x, labels, weights):
    """The arrays without columns that are padding in every row."""
    encoder, decoder = (_longest(x[f"{stack}_padding_mask"]) for stack in ("encoder", "decoder"))
    for name in x:
        if name != "images":
            x[name] = x[name][:, : encoder if name.startswith("encoder") else decoder]
    return x, labels[:, :decoder], weights[:, :decoder]


def _longest(mask):
    return -(-int(mask.sum(axis=1).max()) // 4) * 4


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", required=True, help="preset directory to write")
    parser.add_argument("--work-directory", default="tiny_training", help="state to go on from")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--epoch-steps", type=int, default=96, help="steps between two backups")
    parser.add_argument("--batch-size", type=int, default=64, help="rows, or images")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quiet", action="store_true", help="a line per epoch")
    return parser.parse_args()


if __name__ == "__main__":
    main()
