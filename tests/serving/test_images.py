"""Images of requests are data URLs, and nothing else is opened."""

import base64
import builtins
import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from keras_t5gemma2.serving.errors import RequestError
from keras_t5gemma2.serving.images import image_of

pytestmark = pytest.mark.once


def url_of(size, form="png"):
    file = io.BytesIO()
    Image.fromarray(np.zeros((*size, 3), "uint8")).save(file, form)
    return f"data:image/{form};base64," + base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_a_data_url(form):
    assert image_of(url_of((5, 7), form), "images", 100).size == (7, 5)


@pytest.mark.parametrize(
    "url",
    [
        *("/etc/passwd", "file:///etc/passwd", "http://localhost/a.png", "~/a.png", "a.png"),
        *("data:text/plain;base64,AAAA", "data:image/png,AAAA", "data:,a", None, 3, b"a", {}),
        *("data:image/png;base64,!!!!", "data:image/png;base64,AAAA", " data:image/png;base64,"),
    ],
)
def test_nothing_else(url, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError(f"a file is opened: {arguments}")

    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(pathlib.Path, "open", refuse)
    with pytest.raises(RequestError) as caught:
        image_of(url, "images", 100)
    assert (caught.value.status, caught.value.param) == (400, "images")


def test_too_many_pixels():
    with pytest.raises(RequestError, match="An image cannot be read"):
        image_of(url_of((11, 10)), "images", 100)
