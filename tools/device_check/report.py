"""The findings so far as Markdown and as a picture. Needs nothing but Python."""

import html
import os
import pathlib

_CONTENDERS = ("torch", "jax", "transformers", "transformers, compiled")
_COLORS = ("#c2410c", "#1d4ed8", "#6b7280", "#a3a3a3")
_GIB = 1 << 30


def write(found, head, directory):
    """Writes `device.md` and `device.svg` of a list of records; each file is whole at any time."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in (("device.md", markdown(found, head)), ("device.svg", picture(found))):
        part = directory / f".{name}.part"
        part.write_text(text)
        os.replace(part, directory / name)


def failures(found):
    """The records of what is not as it should be."""
    return [record for record in found if record.get("ok") is False]


def markdown(found, head):
    """All tables.

    Args:
        found: list of records, as the parts give them; each has `by`, who was measured.
        head: list of lines that say what was run, when and where.
    """
    lines = ["# This package on one device", "", *head, ""]
    for record in _of(found, "machine"):
        copied, done = record["bytes_per_second"] / 1e9, record["operations_per_second"] / 1e12
        reached = f"copies {copied:,.0f} GB/s, multiplies {done:,.1f} TFLOP/s in bfloat16"
        lines += [f"{record['by']}: {record['device']}, {reached}.", ""]
    if speeds := _of(found, "speed"):
        lines += ["## Speed", "", *_speed_table(speeds, found), ""]
    for part, title in (("parity", "Against transformers"), ("kernels", "Kernels of attention")):
        if records := _of(found, part):
            lines += [f"## {title}", "", *_check_table(records), ""]
    if ended := _of(found, "process"):
        lines += ["## Not finished", "", *(f"- {x['by']}: {x['note']}" for x in ended), ""]
    return "\n".join(lines)


def _of(found, part):
    return [record for record in found if record["part"] == part]


def _speed_table(speeds, found):
    yield "| model | work | by | ms | tokens/s | of the limit | against transformers | peak GiB |"
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |"
    order = dict.fromkeys((record["model"], record["what"]) for record in speeds)
    for model, what in order:
        rows = {x["by"]: x for x in speeds if (x["model"], x["what"]) == (model, what)}
        eager = rows.get("transformers", {}).get("seconds")
        for by in (name for name in _CONTENDERS if name in rows):
            row = rows[by]
            if "seconds" not in row:
                yield f"| {model} | {what} | {by} | {row['note']} | | | | |"
                continue
            times = f"{eager / row['seconds']:.2f}x" if eager else ""
            limit = limit_seconds(row, found)
            of_limit = f"{limit / row['seconds']:.0%}" if limit else ""
            yield (
                f"| {model} | {what} | {by} | {row['seconds'] * 1e3:,.2f} | "
                f"{row['tokens_per_second']:,.0f} | {of_limit} | {times} | "
                f"{row['peak'] / _GIB:.2f} |"
            )


def limit_seconds(row, found):
    """What moving the bytes or doing the operations takes at least, whichever is longer.

    The rates are the best that either backend reached; `None` where none was measured.
    """
    rates = _of(found, "machine")
    if not rates:
        return None
    moved, done = (
        max(record[name] for record in rates)
        for name in ("bytes_per_second", "operations_per_second")
    )
    return max(row["bytes"] / moved, row["operations"] / done)


def _check_table(records):
    yield "| by | what | direction | error | as it should be |"
    yield "| --- | --- | --- | ---: | --- |"
    for record in records:
        outcome = {True: "yes", False: "NO", None: ""}[record.get("ok")]
        number = record.get("error", record.get("same_tokens"))
        number = "" if number is None else f"{number:.2g}"
        if "same_tokens" in record:
            number += " the same"
        note = record.get("note", "")
        outcome = f"not asked: {record['skipped']}" if "skipped" in record else outcome
        direction = record.get("direction", "")
        outcome = f"{outcome} ({note})" if note else outcome
        yield f"| {record['by']} | {record['what']} | {direction} | {number} | {outcome} |"


def picture(found):
    """An SVG of bars: tokens a second of each work, of the quickest of it."""
    rows, height = [], 34
    speeds = [record for record in _of(found, "speed") if "seconds" in record]
    for model, what in dict.fromkeys((record["model"], record["what"]) for record in speeds):
        of_work = [x for x in speeds if (x["model"], x["what"]) == (model, what)]
        best = max(record["tokens_per_second"] for record in of_work)
        rows.append(_label(8, height, f"{model}: {what}", "bold"))
        height += 8
        for by, color in zip(_CONTENDERS, _COLORS, strict=True):
            for record in (x for x in of_work if x["by"] == by):
                share = record["tokens_per_second"] / best
                rows.append(
                    f'<rect x="180" y="{height}" width="{400 * share:.1f}" height="12" '
                    f'fill="{color}"/>'
                )
                rows.append(_label(8, height + 10, by))
                text = f"{record['tokens_per_second']:,.0f} tokens/s"
                rows.append(_label(186 + 400 * share, height + 10, text))
                height += 16
        height += 22
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="720" height="{height}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" '
        f'fill="white"/>{"".join(rows)}</svg>\n'
    )


def _label(x, y, text, weight="normal"):
    return f'<text x="{x:.1f}" y="{y}" font-weight="{weight}">{html.escape(text)}</text>'
