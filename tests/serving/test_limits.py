"""Limits are positive numbers."""

import pytest

from keras_t5gemma2.serving.limits import Limits


@pytest.mark.once
@pytest.mark.parametrize(("name", "value"), [("texts", 0), ("seconds", -1.0), ("images", 1.5)])
def test_limits_that_are_none(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a positive number. Received: {name}="):
        Limits(**{name: value})
