"""Strings that end a text, and strings that it may not contain, as a rule over bytes."""

import collections

import numpy as np

from keras_t5gemma2.constraints.byte_automaton import DEAD, ByteAutomaton


def rule_of(stop, bad):
    """The `ByteAutomaton` that looks for strings wherever they begin (Aho-Corasick).

    Args:
        stop: list of bytes. Where one of them is complete, the text ends.
        bad: list of bytes. None of them may be completed.
    """
    children, fallback, kind = [{}], [0], [None]
    for kind_of_word, words in (("bad", bad), ("stop", stop)):
        for word in words:
            state = 0
            for byte in word:
                if byte not in children[state]:
                    children[state][byte] = len(children)
                    children.append({})
                    kind.append(None)
                state = children[state][byte]
            kind[state] = kind[state] or kind_of_word
    step = np.zeros((len(children), 256), "int32")
    for byte, child in children[0].items():
        step[0, byte] = child
    waiting = collections.deque(children[0].values())
    fallback = dict.fromkeys(waiting, 0)
    while waiting:
        state = waiting.popleft()
        shorter = fallback[state]
        step[state] = step[shorter]
        # A word that ends within a longer one counts as well.
        kind[state] = (
            "bad" if "bad" in (kind[state], kind[shorter]) else kind[state] or kind[shorter]
        )
        for byte, child in children[state].items():
            fallback[child] = int(step[shorter, byte])
            step[state, byte] = child
            waiting.append(child)
    kind = np.array([word or "" for word in kind])
    step = np.where(kind[step] == "bad", DEAD, step)
    step[kind == "stop"] = np.flatnonzero(kind == "stop")[:, None]  # it stays ended
    return ByteAutomaton(step.astype("int32"), np.ones(len(step), bool), kind == "stop")


def cut(text, stop):
    """The text before the first of the strings `stop` in it."""
    return text[: min([text.find(word) for word in stop if word in text], default=len(text))]


def held_back(text, stop):
    """How many of the last characters of a text may be the beginning of one of `stop`."""
    most = min(len(text), max(map(len, stop), default=1) - 1)
    lengths = range(most, 0, -1)
    return next((n for n in lengths if any(word.startswith(text[-n:]) for word in stop)), 0)
