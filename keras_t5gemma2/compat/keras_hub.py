"""Private names of keras-hub."""


def accepts_labels(layer):
    """Returns whether a preprocessing layer's `call` takes (x, y, weights) (keras-hub 0.32.0)."""
    return layer._call_accepts_labels


def set_special_tokens(tokenizer, names):
    """Sets the attributes that `special_tokens` of a tokenizer reads (keras-hub 0.32.0)."""
    tokenizer._special_token_attrs = tuple(names)


def filling_in(fill):
    """Decorates a preprocessor that fills in arguments its preset has none of (keras-hub 0.32.0).

    Args:
        fill: function of the class, the loader of the preset and the dict of keyword arguments,
            which it changes in place before keras-hub fills in the others.
    """

    def decorate(cls):
        def add_missing(subclass, loader, kwargs):
            fill(subclass, loader, kwargs)
            return super(cls, subclass)._add_missing_kwargs(loader, kwargs)

        cls._add_missing_kwargs = classmethod(add_missing)
        return cls

    return decorate
