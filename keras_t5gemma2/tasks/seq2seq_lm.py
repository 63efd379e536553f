"""The task: text and images in, text out, run with `generate`. Long by its docstrings alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Unpack

import keras
import keras_hub

from keras_t5gemma2.compat import keras as compat
from keras_t5gemma2.generation.calls import Call
from keras_t5gemma2.generation.encoded import Encoded
from keras_t5gemma2.generation.generator import Generator
from keras_t5gemma2.generation.infilling import infill
from keras_t5gemma2.generation.screening import HeadSteps, of_table
from keras_t5gemma2.generation.streaming import stream
from keras_t5gemma2.generation.warmup import warmup
from keras_t5gemma2.model.backbone import T5Gemma2Backbone
from keras_t5gemma2.preprocessing.preprocessor import T5Gemma2Seq2SeqLMPreprocessor
from keras_t5gemma2.tasks import scoring
from keras_t5gemma2.tasks.chat import chat
from keras_t5gemma2.tasks.inspected import Inspected
from keras_t5gemma2.tasks.prompted import Prompted
from keras_t5gemma2.tasks.rewarded import fit_on_own_samples
from keras_t5gemma2.tasks.scoring import TokenScores
from keras_t5gemma2.tasks.task import T5Gemma2Task
from keras_t5gemma2.typing import (
    CacheDType,
    CallSettings,
    ColumnNames,
    CrossAttentionCache,
    HeadKind,
    Inputs,
    StopTokenIds,
    Tensor,
    Verbose,
)
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
class T5Gemma2Seq2SeqLM(Prompted, Inspected, T5Gemma2Task, keras_hub.models.Seq2SeqLM):
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
        head: "auto", "exact" or "screened", how `generate` finds the likeliest token; see the
            attribute.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> lm.compile(sampler="greedy")
    >>> lm.generate("Write 2026-12-17 in French.", max_new_tokens=16)
    '17 décembre 2026'
    """

    def __init__(
        self,
        backbone: T5Gemma2Backbone,
        preprocessor: T5Gemma2Seq2SeqLMPreprocessor | None = None,
        cross_attention_cache: CrossAttentionCache = "auto",
        cache_dtype: CacheDType = "auto",
        head: HeadKind = "auto",
        **kwargs: Any,
    ) -> None:
        self.generator = Generator(self, None, cross_attention_cache, cache_dtype, head)
        super().__init__(backbone, preprocessor, **kwargs)

    def _fit_samples(self, x, lesson, given, options):
        return fit_on_own_samples(self, x, lesson, given, options)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "cross_attention_cache": self.cross_attention_cache,
            "cache_dtype": self.cache_dtype,
            "head": self.head,
        }

    def outputs_of(self, of_backbone: Mapping[str, Tensor]) -> Tensor:
        """The outputs of the task, made of those of its backbone.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> hidden = np.zeros((1, 3, 128), "float32")
        >>> tuple(lm.outputs_of({"decoder_sequence_output": hidden}).shape)
        (1, 3, 2560)
        """
        return self.logits(of_backbone["decoder_sequence_output"])

    @of_table
    def logits(self, hidden: Tensor) -> Tensor:
        """(..., vocabulary) logits of (..., hidden_dim) outputs of the decoder.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> tuple(lm.logits(np.zeros((1, 3, 128), "float32")).shape)
        (1, 3, 2560)
        """
        return self.backbone.token_embedding(hidden, reverse=True)

    # Generation -------------------------------------------------------------------------------

    @property
    def cross_attention_cache(self) -> CrossAttentionCache:
        """ "projected", "shared" or "auto": what is kept of the encoder's output in `generate`.

        Keys and values in every layer of the decoder are the fastest to read. One tensor that all
        layers share, with a number for each token, head and layer beside it, is many times
        smaller; the results are the same to rounding. "auto" shares where keys and values would
        take more than 2 GiB.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.cross_attention_cache = "shared"
        >>> lm.encode("Spell 7 in Dutch.").kind
        'shared'
        """
        return self.generator.cross_attention_cache

    @cross_attention_cache.setter
    def cross_attention_cache(self, value: CrossAttentionCache) -> None:
        self.generator.cross_attention_cache = value

    @property
    def cache_dtype(self) -> CacheDType:
        """ "auto" or "int8": how `generate` stores what it keeps of the tokens before.

        In int8 each token and head has a scale in float32: half of the memory of bfloat16, a
        quarter of that of float32. "auto" is the dtype in which the model computes.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.cache_dtype
        'auto'
        >>> lm.cache_dtype = "int8"
        """
        return self.generator.cache_dtype

    @cache_dtype.setter
    def cache_dtype(self, value: CacheDType) -> None:
        self.generator.cache_dtype = value

    @property
    def head(self) -> HeadKind:
        """ "exact", "screened" or "auto": how a step of `generate` finds the likeliest token.

        "exact" computes the logits of all tokens, from the whole embedding table. "screened" reads
        a copy of the table in 8 bits, which bounds each logit, and then those rows of the table
        alone that may hold the largest: the tokens are the same, for a quarter of the bytes and a
        little. Where too many rows may, a step computes all logits; see `head_steps`. "auto"
        screens where that is quicker: a table of 64 MB or more in float32, more than 32 new
        tokens, and one row.

        Screened are greedy choice, also the checking of an assistant's proposals, and calls that
        draw with `top_k` up to 64. All logits are computed by every other sampler, under penalties,
        `bad_words`, constraints and processors, of more than 8 rows, and by models that are
        quantized, sharded, on an accelerator, with a soft cap of logits or in a mixed precision or
        float16. So are `log_probs` of `return_scores`.

        The copy takes a quarter of the memory of a table in float32, half of one in bfloat16. It
        is made when it is first needed, again when the table has changed, and it is never saved.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.head
        'auto'
        >>> lm.head = "screened"
        >>> lm.compile(sampler="greedy")
        >>> lm.generate("Spell 42 in German.", max_new_tokens=16)
        'zweiundvierzig'
        """
        return self.generator.head

    @head.setter
    def head(self, value: HeadKind) -> None:
        self.generator.head = value

    @property
    def head_steps(self) -> HeadSteps:
        """How many steps had a screened `head` so far, and how many of them computed all logits.

        They do where there is no room for all candidates, a sixteenth of the table, or where
        numbers are very large or not finite. Where these are most steps, "exact" is quicker.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.head_steps
        HeadSteps(screened=0, full=0)
        """
        return self.generator.head_steps

    @property
    def sampler(self) -> keras_hub.samplers.Sampler:
        """The `keras_hub.samplers.Sampler` that chooses the next token.

        It may be set, by name too, and its attributes changed: the next call goes by them.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.sampler = "top_p"
        >>> lm.sampler.p = 0.8
        >>> type(lm.sampler).__name__, lm.sampler.p
        ('TopPSampler', 0.8)
        """
        return self.generator.sampler

    @sampler.setter
    def sampler(self, value: str | keras_hub.samplers.Sampler) -> None:
        self.generator.sampler = value

    @property
    def generate_function(self) -> Callable[..., Tensor] | None:
        """The function that `make_generate_function` gave. Set to `None` to compile all anew.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.generate_function = None
        >>> lm.generate_function is None
        True
        """
        return self.generator.generate_function

    @generate_function.setter
    def generate_function(self, value: Callable[..., Tensor] | None) -> None:
        self.generator.generate_function = value

    def encode(
        self,
        inputs: Inputs,
        cross_attention_cache: CrossAttentionCache | None = None,
        verbose: Verbose = "auto",
        *,
        columns: ColumnNames | None = None,
    ) -> Encoded:
        """The encoder's side of `generate`, computed once, for its argument `encoded`.

        Args:
            inputs: as `generate` takes it; what is said there of the decoder is not read.
            cross_attention_cache: as the attribute, which it is by default.
            verbose: 0, 1 or "auto". Whether to say on stderr that a program is compiled.
            columns: as `generate` has it.

        Returns:
            `Encoded` of as many rows.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.compile(sampler="greedy")
        >>> encoded = lm.encode("Spell 42 in German.")
        >>> lm.generate({"decoder_text": ["", "zwei"]}, encoded=encoded, max_new_tokens=16)
        ['zweiundvierzig', 'zweiundvierzig']
        """
        return self.generator.encode(inputs, cross_attention_cache, verbose, columns=columns)

    def generate(
        self,
        inputs: Inputs | None = None,
        max_length: int | None = None,
        stop_token_ids: StopTokenIds = "auto",
        strip_prompt: bool = False,
        max_new_tokens: int | None = None,
        assistant: 'T5Gemma2Seq2SeqLM | Literal["prompt_lookup"] | None' = None,
        *,
        encoded: Encoded | None = None,
        num_return_sequences: int = 1,
        batch_size: int | None = None,
        cross_attention_cache: CrossAttentionCache | None = None,
        columns: ColumnNames | None = None,
        verbose: Verbose = "auto",
        **settings: Unpack[CallSettings],
    ) -> Any:
        """Text that continues the decoder's prompt, given the encoder's text and images.

        The sampler is the one given to `compile(sampler=...)`, as it is when the call begins.
        `temperature`, `top_k`, `top_p` or `min_p` take its place: the call draws by those of them
        that are given. All settings but `num_beams` and `logits_processor` are inputs of one
        program, so that other values compile nothing. Several threads may generate at the same
        time.

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
            stop_token_ids: list or tuple of the ids that end a row; "auto" for those of
                the preprocessor, as a rule the end token; `None`, or none in it, to go on to the
                last token there is room for.
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
            num_return_sequences: int. Sequences drawn for each row, which share what is encoded,
                or the best of its beams. They follow each other in the result.
            batch_size: int. Rows at a time, by default 32. Of more rows, those of similar length
                are generated together, and the result has the order of `inputs`.
            cross_attention_cache: as the attribute, which it is by default.
            columns: dict from names of the data's columns to those that are read, such as
                `{"question": "encoder_text"}`.
            verbose: 0, 1 or "auto". Whether to show the progress, "auto" where there are several
                batches, and to say on stderr that a program is compiled, which 0 turns off.
            temperature: float, by which logits are divided; 0 takes the likeliest token. This and
                the next five are a number, or a list of one for each row.
            top_k: int. Only so many of the likeliest tokens are drawn; 0 is no limit.
            top_p: float. Only the likeliest tokens that together have this probability are drawn.
            min_p: float. No token is drawn that is less likely than this times the likeliest.
            repetition_penalty: float. Logits of tokens that stand in the decoder's prompt or text
                already are divided by it, or multiplied where they are negative.
            no_repeat_ngram_size: int. No run of so many tokens stands in a row twice; 0 allows it.
            seed: int, which the draws follow from: those of row n of a call are its own, whatever
                else is in the batch, and the same on each backend. Or a list of one for each row,
                which then is drawn like row 0 of a call with this seed.
            stop: string or list of strings. A text ends before the first of them, however it is
                spelled in tokens.
            bad_words: string or list of strings that a text may not contain, anywhere in a word.
            constraint: what a text must look like, one of `keras_t5gemma2.constraints`: `choice`,
                `regex`, `json_schema` or `grammar`. No control token is written. Where the budget
                is short, the text is led to an end, but for that of a grammar; `finished` of
                `return_scores` says whether it came.
            num_beams: int. Beam search in the place of the sampler where it is above 1.
            length_penalty: float, as `BeamSearch` has it.
            logits_processor: list of functions of ids (rows, length), -1 where no token stands,
                and float32 logits (rows, vocabulary) that give other logits. They are traced, and
                a program is kept for each function.
            return_scores: bool. Whether to return `Generated`, a dict with attributes:
                `texts`, `log_probs` of each new token, their sums `scores`, `token_ids` and
                `finished`, whether a text ended before its budget.

        Returns:
            A string for a string (or a dict of them), else a list of strings; without a
            preprocessor a dict of `decoder_token_ids` (rows, length) and `decoder_padding_mask`,
            without the axis of rows for arrays of one row without it.

        Raises:
            ValueError: about a row, which the message names; the model's logits for it are not
                finite, or no room is left for a new token.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.compile(sampler="greedy")
        >>> prompts = ["Spell 42 in German.", "Write 2026-12-17 in French."]
        >>> lm.generate(prompts, max_new_tokens=16)
        ['zweiundvierzig', '17 décembre 2026']
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
            **settings,
        )

    def stream(
        self,
        inputs: Inputs,
        max_length: int | None = None,
        stop_token_ids: StopTokenIds = "auto",
        strip_prompt: bool = True,
        max_new_tokens: int | None = None,
        *,
        cross_attention_cache: CrossAttentionCache | None = None,
        columns: ColumnNames | None = None,
        verbose: Verbose = "auto",
        **settings: Unpack[CallSettings],
    ) -> Iterator[Any]:
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
            **settings: of `generate`, from `temperature` on, but for beams and `return_scores`.

        Returns:
            An iterator of strings for a string (or a dict of them), else of tuples of the number
            of the row and a string. Without a preprocessor: of tuples of the row and an id.

        Raises:
            ValueError: the sampler looks at whole sequences (`beam`, `contrastive`); or as
                `generate`.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.compile(sampler="greedy")
        >>> list(lm.stream("Write 2026-12-17 in French.", max_new_tokens=16))
        ['1', '7', ' décembre', ' ', '2', '0', '2', '6']
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
            settings,
        )

    def chat(
        self,
        messages: str | Sequence[Any],
        images: Any = None,
        stream: bool = False,
        **generate: Any,
    ) -> Any:
        """The model's answer to a dialogue.

        All turns so far, and the opening of the model's, go to the encoder in the form of the
        chat template; see `apply_chat_template` of the preprocessor. The decoder writes the answer
        and the end of its turn, which stops it and is left out. To go on, append the answer as a
        message of the role "assistant" and the next one of the user. The published weights are not
        tuned on dialogues: `fit` on `messages` does that.

        Args:
            messages: list of dicts of `role` ("system", "user" or "assistant") and `content`: a
                string, or a list of parts `{"type": "text", "text": ...}` and
                `{"type": "image", "image": ...}`. Or a list of such lists, several dialogues; or a
                string, the user's one message.
            images: the images of the parts `{"type": "image"}` that have none, in order: one image
                or a list, for several dialogues a list of those. Where there are no such parts,
                they stand before the last message of the user.
            stream: bool. Whether to give the answer in pieces, as `stream` does.
            **generate: arguments of `generate`, such as `max_new_tokens`; with `stream`, of
                `stream`. `stop_token_ids="auto"` is the end of the turn and the end token.

        Returns:
            A string, for several dialogues or sequences a list of strings. With `stream` an
            iterator of strings, for several dialogues of tuples of the number of the dialogue and
            a string.

        Raises:
            ValueError: these are no messages, the template refuses them, the last one is the
                model's, there are more or fewer images than places for them; or as `generate`.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.compile(sampler="greedy")
        >>> messages = [{"role": "user", "content": "Spell 42 in German."}]
        >>> answer = lm.chat(messages, max_new_tokens=8)  # it has not learned to chat yet
        >>> "".join(lm.chat(messages, stream=True, max_new_tokens=8)) == answer
        True
        """
        return chat(self, messages, images, stream, generate)

    def infill(
        self, inputs: Inputs, first_sentinel: str = FIRST_SENTINEL, **options: Any
    ) -> list[Any]:
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

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.compile(sampler="greedy")
        >>> lm.infill("2026-12-17 = French 17 <extra_0> 2026")
        ['décembre']
        """
        return infill(self.generator, inputs, first_sentinel, **options)

    def score_tokens(
        self,
        inputs: Inputs | None,
        tokens: Sequence[str | int],
        *,
        encoded: Encoded | None = None,
        over_vocabulary: bool = False,
        batch_size: int | None = None,
        cross_attention_cache: CrossAttentionCache | None = None,
        columns: ColumnNames | None = None,
        verbose: Verbose = "auto",
    ) -> TokenScores:
        """How likely each of a few tokens comes next, as rerankers and labels in one word need it.

        Only the rows of these tokens are read from the embedding table.

        Args:
            inputs: as `generate` takes them. The next token is that behind the decoder's prompt.
            tokens: list of strings, each of which is one token of the vocabulary, or of ids.
            encoded: as `generate` has it: a document that was encoded once, for many prompts.
            over_vocabulary: bool. Whether probabilities are those over all tokens; else over
                these alone, which add up to 1. It takes the logits of all tokens, of a chunk of
                rows at a time.
            batch_size: int. Rows at a time, by default 32.
            cross_attention_cache: as `generate` has it.
            columns: as `generate` has it.
            verbose: 0, 1 or "auto". Whether to say on stderr that a program is compiled.

        Returns:
            `TokenScores`, a tuple of `logits` and `probabilities`, both (rows, tokens) float32;
            (tokens,) for one row. Rows are in their order.

        Raises:
            ValueError: a string is not one token, an id is not in the vocabulary, the model's
                logits for a row are not finite, or as `generate`.
            TypeError: `tokens` is no list, or an empty one.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> scores = lm.score_tokens(["Write 2026-12-17 in French."], ["1", "7", "2"])
        >>> scores.probabilities.argmax(axis=-1)
        array([0])
        """
        options = cross_attention_cache, columns, verbose
        return scoring.score_tokens(
            self, inputs, tokens, encoded, over_vocabulary, batch_size, options
        )

    def warmup(
        self,
        lengths: int | Sequence[int],
        new_tokens: int | Sequence[int] = 32,
        batch_size: int | Sequence[int] = 1,
        prompt_length: int | Sequence[int] = 1,
        images: int = 0,
        stop_token_ids: StopTokenIds = "auto",
        verbose: Verbose = "auto",
        **settings: Unpack[CallSettings],
    ) -> None:
        """Compiles for inputs of these lengths, so that `generate` does not have to.

        A program serves all lengths that are rounded up to the same one, and so it does new
        tokens and prompts: one call for the longest of each kind is enough. The sampler is that
        of `compile`, whose random numbers go on as if nothing had been generated. Each program
        runs once, for one token.

        For each size there are two programs: of calls without settings such as `temperature`, and
        of all calls that have some. Beams, constraints (of each size of their tables), grammars
        and logits processors have others: give such settings to compile theirs instead.

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
            **settings: of `generate`, from `temperature` on, but for `return_scores`.

        Raises:
            ValueError: a number is less than 1, or there are images and no vision tower.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.compile(sampler="greedy")
        >>> lm.warmup(16, new_tokens=8)
        """
        sizes = {
            "lengths": lengths,
            "new_tokens": new_tokens,
            "batch_size": batch_size,
            "prompt_length": prompt_length,
        }
        warmup(self.generator, sizes, images, stop_token_ids, verbose, settings)

    def generate_step(
        self,
        inputs: Mapping[str, Any],
        stop_token_ids: Sequence[int] | None = None,
        call: Call | None = None,
    ) -> Tensor:
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

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.compile(sampler="greedy")
        >>> x = lm.preprocessor.generate_preprocess(["Spell 42 in German."])
        >>> x |= {"new_tokens": np.int32(4), "new_token_ids": np.full((1, 4), -1, "int32")}
        >>> keras.ops.convert_to_numpy(lm.generate_step(x)).shape
        (1, 36)
        """
        return self.generator.generate_step(inputs, stop_token_ids, call)

    def make_generate_function(self, call: Call | None = None) -> Callable[..., Tensor]:
        """`generate_step` compiled, a function of inputs and `stop_token_ids`.

        Args:
            call: `calls.Call`, by default as the task's attributes are when the function is called.

        Example:

        >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
        >>> lm.compile(sampler="greedy")
        >>> x = lm.preprocessor.generate_preprocess(["Spell 42 in German."])
        >>> x |= {"new_tokens": np.int32(4), "new_token_ids": np.full((1, 4), -1, "int32")}
        >>> keras.ops.convert_to_numpy(lm.make_generate_function()(x, stop_token_ids=None)).shape
        (1, 36)
        """
        return self.generator.make_generate_function(call)
