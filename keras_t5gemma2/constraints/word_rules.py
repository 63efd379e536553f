"""The automata of strings that end a text or may not stand in it, kept for a vocabulary."""

import threading
import weakref

from keras_t5gemma2.constraints import token_automaton, token_grammars, words
from keras_t5gemma2.messages import shown
from keras_t5gemma2.vocabulary.special_tokens import MASK_TOKEN
from keras_t5gemma2.vocabulary.token_bytes import token_bytes

_MOST_RULES = 64
_lock = threading.Lock()
_kept: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # per vocabulary its `_Kept`


class _Kept:
    def __init__(self, tokens):
        self.tokens, self.rules, self.tokenizer = tokens, {}, None
        self.lock, self.lock_of_tokenizer = threading.Lock(), threading.Lock()


class _Made:
    """A rule, once it is made; whoever asks for it meanwhile waits, and nobody else."""

    def __init__(self):
        self.rule, self.lock = None, threading.Lock()


def of_words(model, stop, bad):
    """The `token_automaton.Automaton` of strings `stop`, at which a text ends, and `bad` ones."""
    names = "`stop`" if stop else "`bad_words`"

    def rule():
        return words.rule_of(*([text.encode() for text in texts] for texts in (stop, bad)))

    return kept_rule(model, names, ("words", stop, bad), rule, may_write_control=True)


def kept_rule(model, name, key, rule, may_write_control, stop_token_ids=()):
    """A `token_automaton.Automaton`, made once for each key and vocabulary.

    Args:
        model: a Keras model with a preprocessor.
        name: string, the argument in question.
        key: hashable, which the rule follows from.
        rule: function without arguments that gives the `ByteAutomaton`.
        may_write_control, stop_token_ids: as of `token_automaton.compiled`.
    """
    kept, size = _of_vocabulary(model, name), model.backbone.config.vocabulary_size

    def make():
        return token_automaton.compiled(
            rule(), kept.tokens, size, may_write_control, stop_token_ids
        )

    return _kept_in(kept, (key, size, may_write_control, stop_token_ids), make)


def kept_grammar(model, grammar, stop_token_ids):
    """A `token_grammars.TokenGrammar`, made once for each grammar and vocabulary.

    Args:
        model: a Keras model with a preprocessor.
        grammar: `constraints.grammars.Grammar`.
        stop_token_ids: as of `token_automaton.compiled`.
    """
    kept, size = _of_vocabulary(model, "`constraint`"), model.backbone.config.vocabulary_size
    end = model.preprocessor.tokenizer.end_token_id

    def make():
        with kept.lock_of_tokenizer:
            if kept.tokenizer is None:
                kept.tokenizer = token_grammars.tokenizer_of(kept.tokens, end)
        found = kept.tokenizer, kept.tokens, size, stop_token_ids
        return token_grammars.compiled(grammar, *found)

    return _kept_in(kept, (grammar.key, size, stop_token_ids), make)


def _kept_in(kept, key, make):
    """The rules of a key, made by one thread; those that were used last are kept."""
    with kept.lock:
        kept.rules[key] = found = kept.rules.pop(key, None) or _Made()
        while len(kept.rules) > _MOST_RULES:
            del kept.rules[next(iter(kept.rules))]
    with found.lock:
        if found.rule is None:
            found.rule = make()
    return found.rule


def _of_vocabulary(model, name):
    if model.preprocessor is None:
        raise ValueError(
            f"{name} needs a preprocessor, whose tokenizer knows the text of tokens. Received: "
            f"preprocessor={shown(None)}"
        )
    tokenizer = model.preprocessor.tokenizer
    vocabulary = tokenizer.loaded_vocabulary()
    with _lock:
        return _kept_of(vocabulary, tokenizer)


def _kept_of(vocabulary, tokenizer):
    if vocabulary not in _kept:
        control = [MASK_TOKEN, tokenizer.unk_token, tokenizer.start_of_turn_token]
        control += [tokenizer.end_of_turn_token]
        control = {vocabulary.token_to_id(token) for token in control if token is not None}
        tokens = token_bytes(vocabulary, set(tokenizer.special_token_ids), control)
        _kept[vocabulary] = _Kept(tokens)
    return _kept[vocabulary]
