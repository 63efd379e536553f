"""Draws the rooms of the package, as docs/architecture.md shows them.

    python tools/draw_rooms.py

The order of the rooms is the list `ORDER` in tests/whole/test_imports.py; what a room is for stands
below. A test compares docs/rooms.svg with what this file draws.
"""

import ast
import html
import math
import pathlib
import textwrap

ROOT = pathlib.Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "rooms.svg"

# From the top to the bottom of the picture. Within a floor, `ORDER` says where a room stands.
FLOORS = {
    "what users call": {
        "cli": "what the command t5gemma2 does",
        "lm_eval": "a model for another's harness",
        "serving": "an endpoint with shared batches",
        "tasks": "the model: fit, save, generate, export",
        "adapters": "low-rank adapters: add, choose, save",
    },
    "what is done with a model": {
        "preprocessing": "text and images to arrays, and back",
        "constraints": "what a text must look like",
        "generation": "the decode loop, its strategies and its cache",
        "training": "batches of any data, losses, checkpoints",
        "planning": "memory that a model will take",
        "evaluation": "texts for a data set, and their scores",
        "inspection": "where a model looks, and how sure it is",
        "export": "programs for runtimes without Keras",
    },
    "the model": {
        "model": "layers, stacks, vision tower and backbone; filling them with weights",
        "distribution": "choosing a mesh of devices for a model",
    },
    "weights": {
        "quantization": "matrices of 8 and 4 bits, and their layers",
        "lora": "the dense layer, and the adapters on it",
        "checkpoints": "formats of files: each is read to values, and written from a model",
    },
    "operations and devices": {
        "kernels/compat": "private names of the backends",
        "kernels/runtime": "compiling, processes, memory",
        "kernels/ops": "norms, products, rotations",
        "kernels/loss": "cross-entropy in chunks",
        "kernels/attention": "attention and cache writes",
        "kernels/export": "programs that the backends write",
        "sharding": "which device has which part of a tensor",
    },
    "ground": {
        "messages": "errors and warnings",
        "compiling": "news while programs compile",
        "options": "checks of options that many calls have",
        "typing": "names of types that functions share",
        "config": "sizes of a model, frozen",
        "registry": "the table of presets",
        "compat": "private names of Keras and keras-hub",
        "layer_config": "configs of layers, to JSON and back",
        "files": "safetensors, HDF5, GGUF, JSON, downloads",
        "arguments": "unknown arguments, refused",
        "vocabulary": "vocabulary files and special tokens",
    },
}

WIDTH, MARGIN, PADDING, GAP = 960, 24, 14, 10
HEADER, FLOOR_TITLE, FLOOR_GAP = 92, 26, 12
LINE, LETTER = 15, 6.7  # height of a line, and width of a letter of the widest font
MOST_COLUMNS = 5
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"

# Colors in light as attributes, which every viewer reads; in dark by class.
LIGHT = {
    "page": 'fill="#ffffff"',
    "floor": 'fill="#f3f5f8" stroke="#d5dae1"',
    "room": 'fill="#ffffff" stroke="#8592a3"',
    "backend": 'fill="#fdeccf" stroke="#b9770e"',
    "name": 'fill="#16202c"',
    "text": 'fill="#414d5c"',
}
DARK = """
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117 }
  .floor { fill: #161b22; stroke: #30363d }
  .room { fill: #21262d; stroke: #6e7b8b }
  .backend { fill: #3d2b0c; stroke: #d29922 }
  .name { fill: #f0f4f8 }
  .text { fill: #b6c0cc }
}
"""


def main():
    """Writes docs/rooms.svg."""
    PICTURE.write_text(draw(ROOT), encoding="utf-8")
    print(f"Written: {PICTURE.relative_to(ROOT)}")


def draw(root):
    """The picture of the package in the directory `root`, as the text of an SVG file."""
    order = order_of(root / "tests" / "whole" / "test_imports.py")
    rooms, strays = rooms_of(order, root / "keras_t5gemma2")
    floors = floors_of(rooms)
    body, y = [], HEADER
    for title, names in floors.items():
        drawn, height = _floor(title, names, y)
        body += drawn
        y += height + FLOOR_GAP
    if strays:
        note = f"Stands lower than its room: {', '.join(strays)}"
        body.append(_text("text", MARGIN, y + 12, note, 12))
        y += 24
    height = y + MARGIN - FLOOR_GAP
    return "\n".join([*_head(height), *body, "</svg>", ""])


def order_of(path):
    """The entries of the list `ORDER` in a Python file, whose rows may be starred tuples."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ORDER":
            parts = [n.value.elts if isinstance(n, ast.Starred) else [n] for n in node.value.elts]
            return [entry.value for part in parts for entry in part]
    raise ValueError(f"{path} must have a list `ORDER` at its top. Received: a file without it")


def rooms_of(order, package):
    """The rooms in their order, and the files that stand lower than the rest of their room.

    A room is a folder that holds code and no rooms of its own, or a file outside of all folders.

    Args:
        order: list of dotted names, of which each may import from those before it.
        package: `pathlib.Path` of the package.
    """
    found = [_room(entry, package) for entry in order]
    inner = {room for room in found if not any(other.startswith(f"{room}/") for other in found)}
    last = {room: i for i, room in enumerate(found) if room in inner}
    rooms = sorted(last, key=last.get)
    strays = [
        entry.replace(".", "/")
        for i, (entry, room) in enumerate(zip(order, found, strict=True))
        if room in inner and set(found[i : last[room]]) - {room}
    ]
    return rooms, strays


def _room(entry, package):
    """The folder that an entry of the order is, or is in; or the file, where it is in none."""
    path = package.joinpath(*entry.split("."))
    folder = path if path.is_dir() else path.parent
    return (path if folder == package else folder).relative_to(package).as_posix()


def floors_of(rooms):
    """The rooms of each floor in their order.

    Raises:
        ValueError: `FLOORS` and the rooms differ, or a floor stands in the midst of another.
    """
    described = [room for floor in FLOORS.values() for room in floor]
    if set(described) != set(rooms):
        raise ValueError(
            "`FLOORS` of tools/draw_rooms.py must describe each room once. Not described: "
            f"{sorted(set(rooms) - set(described))}; no room: {sorted(set(described) - set(rooms))}"
        )
    floors = {title: [r for r in rooms if r in floor] for title, floor in FLOORS.items()}
    joined = [room for title in reversed(floors) for room in floors[title]]
    for room, expected in zip(joined, rooms, strict=True):
        if room != expected:
            raise ValueError(
                "The floors of tools/draw_rooms.py must follow `ORDER` of "
                f"tests/whole/test_imports.py. Received: {room} where {expected} comes next"
            )
    return floors


def _floor(title, names, top):
    """The elements of a floor, and its height."""
    columns = math.ceil(len(names) / math.ceil(len(names) / MOST_COLUMNS))
    width = (WIDTH - 2 * (MARGIN + PADDING) - (columns - 1) * GAP) / columns
    # The first row stands at the bottom: what comes later is above it.
    rows = [names[i : i + columns] for i in range(0, len(names), columns)][::-1]
    found, y = [], top + FLOOR_TITLE
    for row in rows:
        lines = {name: _lines(name, FLOORS[title][name], width) for name in row}
        height = 32 + LINE * max(map(len, lines.values()))
        for column, name in enumerate(row):
            found += _cell(
                name, lines[name], MARGIN + PADDING + column * (width + GAP), y, width, height
            )
        y += height + GAP
    height = y - GAP + PADDING - top
    floor = _box("floor", MARGIN, top, WIDTH - 2 * MARGIN, height, radius=8)
    return [floor, _text("text", MARGIN + PADDING, top + 18, title, 12, "bold"), *found], height


def _lines(name, text, width):
    lines = textwrap.wrap(text, width=int((width - 20) / LETTER))
    if len(lines) > 2:
        raise ValueError(f"The text of a room must fit on two lines. Received: that of {name}")
    return lines


def _cell(name, lines, x, y, width, height):
    kind = "backend" if name.startswith("kernels/") else "room"
    texts = [
        _text("text", x + 10, y + 38 + LINE * number, line, 12) for number, line in enumerate(lines)
    ]
    name = _text("name", x + 10, y + 20, name, 13, "bold", MONO)
    return [_box(kind, x, y, width, height, radius=5), name, *texts]


def _head(height):
    rule = "A room imports only from rooms below it, and from rooms to its left in the same row."
    title = "The rooms of keras_t5gemma2"
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" font-family="{FONT}">',
        f"<title>{title}</title>",
        f"<desc>{rule}</desc>",
        f"<style>{DARK}</style>",
        _box("page", 0, 0, WIDTH, height),
        _text("name", MARGIN, 36, title, 18, "bold"),
        _text("text", MARGIN, 58, rule, 13),
        _box("backend", MARGIN, 68, 14, 14, radius=3),
        _text("text", MARGIN + 22, 80, "may import jax, tensorflow or torch", 13),
    ]


def _box(kind, x, y, width, height, radius=0):
    return (
        f'<rect class="{kind}" {LIGHT[kind]} x="{x:g}" y="{y:g}" width="{width:g}" '
        f'height="{height:g}" rx="{radius}"/>'
    )


def _text(kind, x, y, text, size, weight="normal", family=None):
    font = f' font-family="{family}"' if family else ""
    return (
        f'<text class="{kind}" {LIGHT[kind]} x="{x:g}" y="{y:g}" font-size="{size}" '
        f'font-weight="{weight}"{font}>{html.escape(text)}</text>'
    )


if __name__ == "__main__":
    main()
