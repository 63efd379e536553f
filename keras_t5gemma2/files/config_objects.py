"""Checks the objects that a config describes: each must be of the class that belongs there.

So no object may be saved that would not be made again.

Keras instantiates whatever object a config names as an argument, and every object inside that
one's config. A preset may come from anybody, so the check comes before anything is made.
"""

import inspect

import keras

from keras_t5gemma2.messages import shown


def check_parts(cls, config, **parts):
    """Raises where an object inside a config is not of the class that belongs there.

    Args:
        cls: class whose `from_config` gets the config.
        config: dict. Its `dtype` may describe a dtype policy and nothing else.
        **parts: for each key that Keras makes an object of, the class that it must be or be
            derived from; `None` where there must be no object. What the constructor of `cls` needs
            may not be missing.

    Raises:
        ValueError: another object is described; the message names key, rule and class.
    """
    for key, base in parts.items():
        value = config.get(key)
        is_allowed = value is not None or not _is_needed(cls, key)
        if isinstance(value, dict):
            is_allowed = _names_class_of(value, base)
        elif isinstance(value, (str, int, float, list, tuple)):
            is_allowed = False
        if not is_allowed:
            rule = "not be there" if base is None else f"describe a {base.__name__}, registered"
            raise _error(cls, key, rule, value)
    for value in _objects_in(config.get("dtype")):
        if not _is_policy(value):
            raise _error(cls, "dtype", "describe a dtype policy of Keras", value)


def check_is_of(base, **given):
    """Raises where an argument is of another class than the one that belongs there.

    Args:
        base: class.
        **given: one argument by its name.

    Raises:
        TypeError: it is no object of the class, or of one derived from it.
    """
    for name, value in given.items():
        if not isinstance(value, base):
            cls = type(value)
            raise TypeError(
                f"`{name}` must be a {base.__name__} of this package, or of a class derived from "
                f"it. Received: {name}={shown(value)} (of type {cls.__module__}.{cls.__name__})"
            )


def check_are_found(*objects):
    """Raises where Keras would not find the class of an object that is to be saved.

    Args:
        *objects: layers; `None` is skipped.

    Raises:
        ValueError: a class is not registered, so that what is saved could not be loaded.
    """
    for cls in (type(value) for value in objects if value is not None):
        if keras.saving.get_registered_object(keras.saving.get_registered_name(cls)) is None:
            raise ValueError(
                "An object to be saved must be of a registered class: no other is loaded. "
                f"Received: an object of the class {cls.__name__}. Put "
                '`@keras.saving.register_keras_serializable("my_package")` before the class'
            )


def _is_needed(cls, name):
    parameter = inspect.signature(cls.__init__).parameters.get(name)
    return parameter is not None and parameter.default is parameter.empty


def _names_class_of(value, base):
    found = keras.saving.get_registered_object(str(value.get("registered_name")))
    return _has_config(value) and None not in (base, found) and _is_derived(found, base)


def _is_policy(value):
    """Whether Keras makes a dtype policy of a dict: by its registered name, or one of its own."""
    policy = keras.dtype_policies.DTypePolicy
    name, class_name = value.get("registered_name"), value.get("class_name")
    found = keras.saving.get_registered_object(str(name))
    if found is None:
        found = getattr(keras.dtype_policies, str(class_name), None)
    return _has_config(value) and _is_derived(found, policy)


def _has_config(value):
    """Whether Keras looks for the class that a dict names, and gives it a config.

    It takes some names for functions, code and tensors. Where there is no config, it instantiates
    all that stands in the dict.
    """
    name = value.get("class_name")
    is_class = isinstance(name, str) and name != "function" and not name.startswith("__")
    return is_class and isinstance(value.get("config"), dict)


def _is_derived(found, base):
    return inspect.isclass(found) and issubclass(found, base)


def _objects_in(value):
    """Every dict in a value, itself included, that names a class."""
    if isinstance(value, dict):
        if "class_name" in value:
            yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _objects_in(part)


def _error(cls, key, rule, value):
    names = f"{key}={shown(value)}"
    if isinstance(value, dict):
        parts = ("class_name", "module", "registered_name")
        names = ", ".join(f"{name}={shown(value.get(name))}" for name in parts)
    return ValueError(
        f"`{key}` in the config of a {cls.__name__} must {rule}: nothing else that a file names is "
        f"made or run. Received: {names}"
    )
