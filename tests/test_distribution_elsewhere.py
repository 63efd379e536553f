"""What other backends than JAX say."""

import keras
import pytest

from keras_t5gemma2 import distribution


@pytest.mark.skipif(keras.config.backend() == "jax", reason="it does there what is asked")
def test_backends_that_keras_does_not_distribute_on():
    with pytest.raises(NotImplementedError, match=f"backend='{keras.config.backend()}'"):
        distribution.distribute()
