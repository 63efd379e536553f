"""Pictures of attention."""

import re
import sys

import numpy as np
import pytest

from keras_t5gemma2 import show_attention
from keras_t5gemma2.inspection.attention import AttentionWeights

pytestmark = pytest.mark.once
pytest.importorskip("matplotlib")


def made_up(images=True):
    """Two layers of one head, two tokens; the second looks at the second part of an image."""
    tokens = ["<bos>", *["<image_soft_token>"] * 4, " a<b"] if images else ["<bos>", " a<b"]
    past = np.zeros((2, 1, 2, 2), "float32")
    encoder = np.zeros((2, 1, 2, len(tokens)), "float32")
    past[:, 0, 0] = 0.1, 0
    encoder[:, 0, 0, -1] = 0.9
    past[:, 0, 1] = 0.25, 0.25
    encoder[0, 0, 1, 2 if images else 0] = 0.5
    encoder[1, 0, 1, -1] = 0.5
    maps = [encoder[..., 1:5].reshape(2, 1, 2, 2, 2)] if images else []
    pictures = [np.full((8, 8, 3), 255, "uint8")] if images else []
    return AttentionWeights(["x", "y"], ["<bos>", "x"], tokens, past, encoder, maps, pictures)


def test_pictures_need_a_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="`show_attention` needs matplotlib: install it by"):
        show_attention(made_up())


def spans(page):
    found = re.findall(r',([\d.]+)\)" title="([\d.]+)">([^<]*)</span>', page)
    return [(text, float(weight), float(shade)) for shade, weight, text in found]


def test_shades_are_the_weights_of_the_chosen_layers_and_heads():
    page = show_attention(made_up(), tokens=1, layers=0)._repr_html_()
    assert spans(page) == [
        ("&lt;bos&gt;", 0, 0),
        ("[image 1]", 0.5, 1),
        (" a&lt;b", 0, 0),
        ("&lt;bos&gt;", 0.25, 0.5),
        ("x", 0.25, 0.5),
    ]
    assert page.count("<img ") == 1
    both = spans(show_attention(made_up(), tokens=[-1])._repr_html_())
    assert both[1][1] == both[2][1] == 0.25  # the mean over the layers
    page = show_attention(made_up())._repr_html_()
    assert page.count("<div") == 2
    assert [text for text, *_ in spans(page)][3] == "&lt;bos&gt;" and len(spans(page)) == 9


def test_figures_have_a_map_over_each_picture(tmp_path):
    figure = show_attention(made_up(), tokens=1, layers=0)
    (text, map_), path = figure.axes, tmp_path / "attention.png"
    picture, grid = map_.images
    np.testing.assert_array_equal(grid.get_array(), [[0, 0.5], [0, 0]])
    assert picture.get_array().shape == (8, 8, 3) and grid.get_extent() == [0, 2, 2, 0]
    assert [x.get_text() for x in text.texts] == [
        *("'y'", "<bos>", "[image 1]", " a<b", "<bos>", "x"),
    ]
    assert [patch.get_alpha() or patch.get_facecolor()[3] for patch in text.patches][1] == 1
    figure.savefig(path)
    assert path.stat().st_size > 1_000


def test_rows_without_images_and_images_without_pixels():
    figure = show_attention(made_up(images=False))
    assert len(figure.axes) == 2 and "<img " not in figure._repr_html_()
    features = made_up()._replace(pictures=[None])
    figure = show_attention(features)
    assert len(figure.axes[1].images) == 1 and figure._repr_html_().count("<img ") == 2


@pytest.mark.parametrize(
    ("name", "value"), [("tokens", 2), ("layers", [0, 2]), ("heads", "first"), ("layers", [])]
)
def test_what_is_not_there_is_not_drawn(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be an integer from 0 to .*{name}="):
        show_attention(made_up(), **{name: value})
    with pytest.raises(TypeError, match="what `lm.attention` gives of one row"):
        show_attention([made_up()])
