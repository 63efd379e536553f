"""Objects as Keras writes them into JSON."""


def keras_object(module, registered_name, config):
    """An object as Keras writes it into JSON."""
    return {
        "module": module,
        "class_name": registered_name.partition(">")[2],
        "config": config,
        "registered_name": registered_name,
    }


def dtype_object(name):
    """A plain dtype policy as Keras writes it into JSON."""
    return {
        "module": "keras",
        "class_name": "DTypePolicy",
        "config": {"name": name},
        "registered_name": None,
    }
