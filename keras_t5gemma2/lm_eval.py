"""A model for lm-evaluation-harness, by the name "keras_t5gemma2"; needs the extra `lm-eval`.

Import this module before `lm_eval.simple_evaluate`, or run the harness's command line with it:

    python -m keras_t5gemma2.lm_eval run --model keras_t5gemma2 \
        --model_args pretrained=t5gemma2_tiny --tasks ... --include_path ...
"""

import contextlib
import json
import sys
from typing import Any

import keras
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs

from keras_t5gemma2.checkpoints.formats import class_for
from keras_t5gemma2.evaluation.continuations import Continuation, score_continuations
from keras_t5gemma2.messages import shown, warn
from keras_t5gemma2.options import checked, integer
from keras_t5gemma2.preprocessing.chat_template import TurnEnd, turn_end
from keras_t5gemma2.tasks.seq2seq_lm import T5Gemma2Seq2SeqLM

# The harness's sign for an image in a text.
IMAGE = "<image>"
# What a task may ask of `generate` beside lengths and stops.
_OF_GENERATE = {
    *("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size"),
    *("num_beams", "length_penalty", "seed"),
}


@register_model("keras_t5gemma2")
class T5Gemma2HarnessLM(LM):
    """T5Gemma 2 as lm-evaluation-harness calls a model, as its own `hf` calls one that is seq2seq.

    The encoder reads the context, with the start token; the decoder's text is the continuation
    alone, without an end token. Spaces at the end of a context go to the continuation.

    Args:
        pretrained: what `T5Gemma2Seq2SeqLM.from_preset` takes, or a `T5Gemma2Seq2SeqLM`.
        dtype: string or `None`, as `from_preset` has it.
        batch_size: int, or a string of one. Rows at a time; "auto" is 32.
        max_length: int or `None`. Tokens of the longest context, the start token included; the
            first ones of a longer context are left out, which a warning says. `None`: no limit.
        max_gen_toks: int. Tokens to generate where a task does not say.
        adapter: path or `None`. Of a file that `save_adapter` wrote.
        max_batch_size: int or `None`. The most rows that "auto" stands for.
        device: `None`: the backend chooses. Anything else is warned of.
        **options: of `from_preset`, such as `quantize="int8"` or `text_only=True`.

    Raises:
        ValueError: there is no preprocessor, or a number is none.

    Example:

    >>> from lm_eval.api.instance import Instance
    >>> from keras_t5gemma2.lm_eval import T5Gemma2HarnessLM
    >>> lm = T5Gemma2HarnessLM.create_from_arg_string("pretrained=t5gemma2_tiny,batch_size=4")
    >>> arguments = ("Spell 7 in German.", {"until": ["e"], "max_gen_toks": 8})
    >>> lm.generate_until([Instance("generate_until", {}, arguments, 0)])
    ['si']
    """

    MULTIMODAL = True

    def __init__(
        self,
        pretrained: Any,
        dtype: str | None = None,
        batch_size: int | str = 1,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        adapter: str | None = None,
        max_batch_size: int | str | None = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if device is not None:
            warn(
                "`device` has no effect: the backend of Keras chooses where to compute. Received: "
                f"device={shown(device)}. Leave it out, and choose by the backend's own settings"
            )
        self.batch_size = _batch_size(batch_size, max_batch_size)
        self.max_length = checked(max_length=max_length)
        self.max_gen_toks = checked(max_new_tokens=max_gen_toks)
        if isinstance(pretrained, str):
            if dtype is not None:
                options["dtype"] = dtype
            self._name = pretrained
            cls = class_for(T5Gemma2Seq2SeqLM, pretrained)
            pretrained = cls.from_preset(pretrained, **options)
        elif options or dtype:
            raise TypeError(
                "A model that is there is taken as it is. Received: `pretrained`, a "
                f"{type(pretrained).__name__}, and {shown(sorted(options) or 'dtype')}"
            )
        else:
            self._name = pretrained.name
        if pretrained.preprocessor is None:
            raise ValueError("A model must have a preprocessor. Received: preprocessor=None")
        if adapter is not None:
            pretrained.load_adapter(adapter)
        self.lm, self._chats = pretrained, False

    # Requests ----------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        """Per request the log-probability of its continuation, and whether it is the greedy one."""
        continuations = self._continuations([request.args for request in requests])
        found = score_continuations(self.lm, continuations, self.batch_size)
        for request, score in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, score)
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Refused: a text has no probability of its own here."""
        raise NotImplementedError(
            "`loglikelihood_rolling`, the perplexity of a text alone, has no meaning for an "
            "encoder-decoder model: it gives probabilities of a text after an input, and here "
            "there is none. Choose tasks of the output types `loglikelihood`, `multiple_choice` "
            "or `generate_until`"
        )

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Per request the text that the model writes, up to the first of its stops."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        found = [""] * len(requests)
        for numbers in groups.values():
            texts = self._generate([requests[number].args for number in numbers])
            for number, text in zip(numbers, texts, strict=True):
                found[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return found

    # Chats -------------------------------------------------------------------------------------

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The text of a dialogue; without the prompt, its last message is left open."""
        self._chats = True
        text = self.lm.preprocessor.apply_chat_template(chat_history, add_generation_prompt)
        if add_generation_prompt:
            return text
        last = chat_history[-1]["content"].strip()
        return text[: text.rindex(last) + len(last)]

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template in use, where one is asked for."""
        return self.lm.preprocessor.template_in_use() if chat_template else None

    @property
    def tokenizer_name(self) -> str:
        """What the harness calls its caches of requests by."""
        return self._name.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside the results."""
        return {
            "model_num_parameters": self.lm.backbone.count_params(),
            "model_dtype": self.lm.backbone.compute_dtype,
            "model_backend": keras.config.backend(),
        }

    # Rows --------------------------------------------------------------------------------------

    def _continuations(self, arguments):
        tokenizer = self.lm.preprocessor.tokenizer
        stripped = [context.rstrip() for context, *_ in arguments]
        images = [_images_of(of_request) for of_request in arguments]
        found = []
        for before, text, seen, (whole, after, *_) in zip(
            stripped, self._contexts(stripped, images), images, arguments, strict=True
        ):
            ids = list(tokenizer(whole[len(before) :] + after))
            if not whole and ids[:1] == [tokenizer.start_token_id]:
                ids = ids[1:]
            found.append(Continuation(text, seen, ids))
        return found

    def _contexts(self, texts, images):
        """What the encoder reads, with the model's own markers of images, and no start token."""
        tokenizer = self.lm.preprocessor.tokenizer
        marker, found, cut = tokenizer.start_of_image_token, [], []
        for text, seen in zip(texts, images, strict=True):
            text = text.removeprefix(tokenizer.start_token)
            if seen:
                text = text.replace(IMAGE, marker)
                text = text if marker in text else " ".join([marker] * len(seen)) + " " + text
            if self.max_length is not None:
                starts = [start for start, _ in tokenizer.tokenize_with_offsets(text)[1]]
                if len(starts) >= self.max_length:
                    cut.append(len(starts) + 1)
                    if seen:
                        raise ValueError(
                            "A context with images is not cut. Received: one of "
                            f"{cut[-1]} tokens, max_length={self.max_length}. Give a larger one"
                        )
                    text = text[[*starts, len(text)][len(starts) + 1 - self.max_length] :]
            found.append(text)
        if cut:
            warn(
                f"Of {len(cut)} contexts the last tokens are read: they have up to {max(cut)}, and "
                f"max_length={self.max_length}. Give a larger one, or `None` for no limit"
            )
        return found

    def _generate(self, arguments):
        """Texts of requests that have the same options."""
        options = normalize_gen_kwargs(arguments[0][1], self.max_gen_toks)
        stops = [stop for stop in options.pop("until") if stop]
        budget, draws = options.pop("max_gen_toks"), options.pop("do_sample")
        options = {name: value for name, value in options.items() if value is not None}
        if unknown := sorted(options.keys() - _OF_GENERATE):
            raise ValueError(
                f"A task asks for what `generate` has not: {shown(unknown)}. It has "
                f"{sorted(_OF_GENERATE)}"
            )
        if not draws:
            options["temperature"] = 0.0
        if options.get("num_beams", 1) > 1:
            options.pop("temperature", None)
        images = [_images_of(of_request) for of_request in arguments]
        contexts = self._contexts([context for context, *_ in arguments], images)
        rows: dict[str, Any] = {"encoder_text": contexts}
        if any(images):
            rows["images"] = [list(seen) for seen in images]
        end, stop_token_ids = self._end()
        with self._unlimited():
            return self.lm.generate(
                rows,
                max_new_tokens=budget,
                stop_token_ids=stop_token_ids,
                stop=[*stops, *([end] if end else [])] or None,
                batch_size=self.batch_size,
                **options,
            )

    def _end(self):
        preprocessor = self.lm.preprocessor
        return turn_end(preprocessor) if self._chats else TurnEnd("", preprocessor.stop_token_ids)

    @contextlib.contextmanager
    def _unlimited(self):
        """Has contexts read as they are: what is too long is cut here, from the other end."""
        preprocessor = self.lm.preprocessor
        length = preprocessor.encoder_sequence_length
        preprocessor.encoder_sequence_length = sys.maxsize
        try:
            yield
        finally:
            preprocessor.encoder_sequence_length = length


def _images_of(arguments):
    """The images of a request, which may have a dict of them behind its two arguments."""
    return tuple((arguments[2] if len(arguments) > 2 else {}).get("visual") or ())


def _batch_size(batch_size, most):
    if isinstance(batch_size, str) and batch_size.startswith("auto"):
        batch_size = min(32, int(most or 32))
    number = int(batch_size) if str(batch_size).isdecimal() else integer(batch_size)
    if number is None or number < 1:
        raise ValueError(
            f'`batch_size` must be a positive integer or "auto". Received: {shown(batch_size)}'
        )
    return number


if __name__ == "__main__":
    cli_evaluate()
