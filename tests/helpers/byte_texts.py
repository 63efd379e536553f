"""Which texts an automaton over bytes accepts."""


def accepts(automaton, text):
    """Whether a `ByteAutomaton` accepts a text."""
    state = 0
    for byte in text.encode():
        state = automaton.step[state, byte]
        if state < 0:
            return False
    return bool(automaton.accepts[state])
