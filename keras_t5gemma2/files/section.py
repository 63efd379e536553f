"""A section of a config file, whose values are checked as they are taken."""

import dataclasses

from keras_t5gemma2.files.limits import LARGEST_SIZE, is_number
from keras_t5gemma2.messages import cause, shown
from keras_t5gemma2.options import LARGEST, LARGEST_INTEGER, SMALLEST, is_in_float32

# Where a file has both, the second wins, as in the reference.
_ALIASES = {"image_token_index": "image_token_id", "eoi_token_index": "eoi_token_id"}


@dataclasses.dataclass(frozen=True)
class Section:
    """One object of a `config.json`: its name in messages, its values, and its defaults."""

    name: str
    values: dict
    defaults: dict

    def __post_init__(self):
        if not isinstance(self.values, dict):
            name = f"`{self.name}` of config.json" if self.name else "config.json"
            raise ValueError(f"{name} must be an object. Received: {shown(self.values)}")

    def __getitem__(self, key):
        value = self.values.get(key, self.defaults[key])
        return self.values.get(_ALIASES.get(key), value)

    def section(self, key, defaults):
        """The object under `key`; one that is absent or null has all the defaults of its class."""
        return self.subsection(key, {} if self[key] is None else self[key], defaults)

    def subsection(self, key, values, defaults):
        return Section(self._full(key), values, defaults)

    def optional_object(self, key):
        """The dict under `key`, an empty one where there is none."""
        value = self[key]
        return self._checked(key, isinstance(value, dict | None), "be an object") or {}

    def make(self, config_class, **sizes):
        """A config object, whose own rules speak of this part when they are broken."""
        try:
            return config_class(**sizes)
        except ValueError as error:
            raise ValueError(f"`{self.name}` of config.json: {cause(error, 1000)}") from error

    def must_be(self, key, value):
        self._checked(key, self[key] == value, f"be {shown(value)}")

    def size(self, key, largest=LARGEST_SIZE):
        value = self[key]
        is_size = type(value) is int and 1 <= value <= largest
        return self._checked(key, is_size, f"be an integer from 1 to {largest}")

    def token_id(self, key):
        value = self[key]
        is_id = type(value) is int and 0 <= value <= LARGEST_INTEGER
        return self._checked(key, is_id, f"be a token id, at most {LARGEST_INTEGER}")

    def positive(self, key, or_none=False):
        value = self[key]
        is_sound = is_number(value) and value > 0 and is_in_float32(value)
        rule = f"be a positive number, from {SMALLEST} to {LARGEST}"
        return self._checked(key, is_sound or (value is None and or_none), rule)

    def rate(self, key):
        value = self[key]
        return self._checked(key, is_number(value) and 0 <= value < 1, "be at least 0 and below 1")

    def error(self, key, rule):
        origin = "" if key in self.values else ", the default where the file says nothing"
        return ValueError(
            f"`{self._full(key)}` of config.json must {rule}. Received: "
            f"{key}={shown(self[key])}{origin}"
        )

    def _checked(self, key, is_sound, rule):
        if not is_sound:
            raise self.error(key, rule)
        return self[key]

    def _full(self, key):
        return f"{self.name}.{key}" if self.name else key
