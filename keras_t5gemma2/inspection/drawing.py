"""Pictures of attention: text with shades, and heat maps over images."""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from keras_t5gemma2.inspection.attention import AttentionWeights
from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import integer

_COLOR = (214, 39, 40)  # red, of a text's shades
_LINE = 72  # characters
_MOST_TOKENS = 16  # that are drawn where nobody says which


class _Seen(NamedTuple):
    """What one written token looks at."""

    token: str
    pieces: list[tuple[str, float]]  # of the encoder's text: an image is one piece
    past: list[tuple[str, float]]
    maps: list[np.ndarray]  # (rows, columns), of each image


def show_attention(
    attention: AttentionWeights,
    tokens: int | Sequence[int] | None = None,
    layers: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
) -> Any:
    """A figure of where the model looks: text with shades, and heat maps over the pictures.

    For each written token there is a row: the encoder's text, each token the darker the larger its
    weight, the decoder's own tokens below it, and each picture under a map of the weights of its
    parts. Shades are relative to the largest weight of the row's text, and those of maps to the
    largest part of the row's pictures. Weights are means over layers and heads.

    Args:
        attention: `AttentionWeights`, what `T5Gemma2Seq2SeqLM.attention` gives of one row.
        tokens: int or list of ints, the written tokens to draw; by default the first 16.
        layers: int or list of ints; by default all.
        heads: int or list of ints; by default all.

    Returns:
        A figure of matplotlib, which `savefig` writes; a notebook shows it as HTML.

    Raises:
        ValueError: there is no such token, layer or head.
        TypeError: `attention` is none.
        ImportError: matplotlib is not installed.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> found = lm.attention("Spell 7 in German.", output="sieben")
    >>> figure = keras_t5gemma2.show_attention(found, tokens=0)
    >>> figure.savefig(directory / "attention.png")
    >>> "sieben" in figure._repr_html_()
    True
    """
    rows = _rows(attention, tokens, layers, heads)
    figure = _figure(rows, attention.pictures)
    page = _page(rows, attention.pictures)
    figure._repr_html_ = lambda: page
    return figure


def _rows(attention, tokens, layers, heads):
    if not isinstance(attention, AttentionWeights):
        raise TypeError(
            "`attention` must be what `lm.attention` gives of one row. Received: "
            f"{shown(attention)} (of type {type(attention).__name__})"
        )
    sizes = attention.past.shape[:3]
    tokens = list(range(min(sizes[2], _MOST_TOKENS))) if tokens is None else tokens
    layers = _places("layers", layers, sizes[0])
    heads = _places("heads", heads, sizes[1])
    chosen = np.ix_(layers, heads)
    rows = []
    for token in _places("tokens", tokens, sizes[2]):
        encoder, past = (
            weights[chosen][:, :, token].mean(axis=(0, 1))
            for weights in (attention.encoder, attention.past)
        )
        maps = [image[chosen][:, :, token].mean(axis=(0, 1)) for image in attention.images]
        pieces = _pieces(attention.encoder_tokens, encoder, maps)
        own = list(zip(attention.past_tokens, past.tolist(), strict=True))
        rows.append(_Seen(attention.tokens[token], pieces, own[: token + len(own) - sizes[2] + 1],
                          maps))  # fmt: skip
    return rows


def _places(name, value, count):
    if value is None:
        return list(range(count))
    values = [value] if integer(value) is not None else list(value)
    places = [integer(x) for x in values]
    if not places or not all(x is not None and -count <= x < count for x in places):
        raise ValueError(
            f"`{name}` must be an integer from 0 to {count - 1}, or a list of some. Received: "
            f"{name}={shown(value)}"
        )
    return [x % count for x in places]


def _pieces(tokens, weights, maps):
    """The encoder's tokens with their weights, those of an image as one."""
    found, left, inside = [], [grid.size for grid in maps], 0
    number = 0
    for token, weight in zip(tokens, weights.tolist(), strict=True):
        if inside or (token == "<image_soft_token>" and number < len(left)):
            if not inside:
                number += 1
                inside = left[number - 1]
                found.append((f"[image {number}]", float(maps[number - 1].sum())))
            inside -= 1
            continue
        found.append((token, weight))
    return found


# matplotlib ------------------------------------------------------------------------------------


def _figure(rows, pictures):
    try:
        from matplotlib import figure as figures
    except ImportError as error:
        raise ImportError(
            "`show_attention` needs matplotlib: install it by `pip install matplotlib`"
        ) from error
    drawn = [[_lines(row.pieces), _lines(row.past)] for row in rows]
    heights = [max(sum(map(len, two)) + 2, 9 if pictures else 0) for two in drawn]
    count = max((len(row.maps) for row in rows), default=0)
    widths = [_LINE, *[20] * count]
    size = (0.085 * sum(widths) + 0.2, 0.19 * sum(heights) + 0.2)
    figure = figures.Figure(figsize=size, layout="constrained")
    axes = figure.subplots(
        len(rows), 1 + count, squeeze=False, width_ratios=widths, height_ratios=heights
    )
    for row, lines, height, of_row in zip(rows, drawn, heights, axes, strict=True):
        _draw_text(of_row[0], row, lines, height)
        top = max((grid.max() for grid in row.maps), default=1.0)
        for axis, grid, picture in zip(of_row[1:], row.maps, pictures, strict=True):
            _draw_map(axis, grid, picture, top)
    return figure


def _draw_text(axis, row, lines, height):
    from matplotlib.patches import Rectangle

    axis.set(xlim=(0, _LINE), ylim=(height, 0))
    axis.axis("off")
    style = {"family": "monospace", "fontsize": 9, "va": "center", "parse_math": False}
    axis.text(0, 0.5, repr(row.token), weight="bold", **style)
    top = max(weight for _, weight in (*row.pieces, *row.past)) or 1.0
    for y, line in enumerate((*lines[0], *lines[1]), start=1):
        y += 0.3 * (y > len(lines[0]))
        for x, text, weight in line:
            color = (*(c / 255 for c in _COLOR), weight / top)
            axis.add_patch(Rectangle((x, y), len(text), 0.92, facecolor=color, linewidth=0))
            axis.text(x, y + 0.5, text, **style)


def _lines(pieces):
    """Lines of (column, text, weight), cut between pieces."""
    lines, column = [[]], 0
    for text, weight in pieces:
        text = text.replace("\n", "⏎")[:_LINE]
        if column + len(text) > _LINE:
            lines.append([])
            column = 0
        lines[-1].append((column, text, weight))
        column += len(text)
    return lines


def _draw_map(axis, grid, picture, top):
    axis.axis("off")
    extent = (0, grid.shape[1], grid.shape[0], 0)
    if picture is not None:
        axis.imshow(picture, extent=extent)
    axis.imshow(grid, extent=extent, alpha=0.6, cmap="inferno", vmin=0, vmax=top)


# HTML ------------------------------------------------------------------------------------------


def _page(rows, pictures):
    return "".join(_html_of_row(row, pictures) for row in rows)


def _html_of_row(row, pictures):
    top = max(weight for _, weight in (*row.pieces, *row.past)) or 1.0
    texts = [
        "".join(_span(text, weight, top) for text, weight in part)
        for part in (row.pieces, row.past)
    ]
    most = max((grid.max() for grid in row.maps), default=1.0)
    images = "".join(_image(*pair, most) for pair in zip(row.maps, pictures, strict=True))
    style = "font-family:monospace;white-space:pre-wrap;margin:0.5em 0"
    return (
        f'<div style="{style}"><b>{html.escape(repr(row.token))}</b><br>{texts[0]}<br>'
        f"{texts[1]}<br>{images}</div>"
    )


def _span(text, weight, top):
    color = f"rgba({','.join(map(str, _COLOR))},{weight / top:.3f})"
    text = html.escape(text.replace("\n", "⏎"))
    return f'<span style="background:{color}" title="{weight:.4f}">{text}</span>'


def _image(grid, picture, top):
    """An image whose parts are the lighter, and the redder, the larger their weight."""
    shades = (grid / (top or 1.0))[..., None]
    size = (192, 192)
    shades = np.asarray(PIL.Image.fromarray((255 * shades[..., 0]).astype("uint8")).resize(size, 0))
    picture = np.full((8, 8, 3), 128, "uint8") if picture is None else picture
    levels = np.asarray(PIL.Image.fromarray(picture).resize(size), "float32")
    part = shades[..., None] / 255 * 0.6
    levels = levels * (1 - part) + np.array(_COLOR, "float32") * part
    buffer = io.BytesIO()
    PIL.Image.fromarray(levels.astype("uint8")).save(buffer, "png")
    text = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/png;base64,{text}" width="192" height="192">'
