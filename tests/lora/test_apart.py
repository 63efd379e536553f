"""Whether adapters are saved apart from the weights that they stand beside."""

import threading

import pytest

from keras_t5gemma2.lora.apart import adapters_apart, are_apart

pytestmark = pytest.mark.once


def test_they_are_inside_only():
    assert not are_apart()
    with adapters_apart():
        with adapters_apart():
            assert are_apart()
        assert are_apart()
    assert not are_apart()
    with pytest.raises(KeyError), adapters_apart():
        raise KeyError
    assert not are_apart()


def test_other_threads_save_as_ever():
    found = []
    with adapters_apart():
        thread = threading.Thread(target=lambda: found.append(are_apart()))
        thread.start()
        thread.join()
    assert found == [False]
