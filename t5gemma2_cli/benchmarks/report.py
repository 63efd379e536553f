"""What `main.py` found, as lines, as tables and as a picture."""

import pathlib
import statistics

from t5gemma2_cli.benchmarks.sizes import Cost

_GIB = 1 << 30

# Works that are measured at several lengths of the encoder.
BY_LENGTH = ("encode", "prefill", "decode")
_COLORS = {
    "ours": "tab:blue",
    "ours compiled": "tab:cyan",
    "keras-hub": "tab:orange",
    "transformers": "black",
}
_LINES = {"jax": "-o", "tensorflow": "--s", "torch": ":^"}


def summarize(result, machine):
    """Adds to a result the median of its samples, their spread, and the part of the limit.

    Args:
        result: dict with `runs`, as `works.measure` gives them, `reason` and `cost`.
        machine: dict, as `measure_machine` gives it.
    """
    runs = [run for run in result["runs"] if "seconds" in run]
    samples = [seconds for run in runs for seconds in run["seconds"]]
    result["seconds"] = result["spread"] = result["bytes"] = result["limit"] = None
    if not samples:
        return
    result["seconds"] = statistics.median(samples)
    result["spread"] = (max(samples) - min(samples)) / 2
    if "bytes" in runs[0]:
        result["bytes"] = statistics.median(run["bytes"] for run in runs)
    if "limit" in runs[0]:
        result["limit"] = statistics.median(run["limit"] for run in runs)
    elif result["cost"] and "reason" not in machine:
        result["limit"] = Cost(**result["cost"]).seconds(machine, result["dtype"])


def line(result):
    """One run, while others go on."""
    run = result["runs"][-1]
    name = f"{result['work']:8} {_name(result):24} {result['dtype']:8}"
    shape = f"{result['batch']} x {result['length']:<7,}"
    if "seconds" not in run:
        return f"{name} {shape} {run['reason']}"
    memory = f"{run['bytes'] / _GIB:8.3f} GiB" if "bytes" in run else ""
    return f"{name} {shape} {_time(statistics.median(run['seconds'])):>10} {memory}"


def write(found, directory):
    """Writes `benchmark.md` and `benchmark.png` of all that was found into a directory."""
    directory = pathlib.Path(directory)
    (directory / "benchmark.md").write_text(_text(found), encoding="utf-8")
    try:
        import matplotlib
    except ModuleNotFoundError:
        print("matplotlib is not installed (the extra `benchmark`): there is no picture")
        return
    matplotlib.use("agg")
    _draw(found).savefig(directory / "benchmark.png", dpi=130)


# Tables ---------------------------------------------------------------------------------------


def _text(found):
    machine = found["machine"]
    parts = [f"`{machine['command']}`\n\n{_machine(machine)}\n"]
    for work, meaning in machine["works"].items():
        results = [result for result in found["results"] if result["work"] == work]
        if results:
            parts.append(f"## {work}: {meaning}\n")
            parts += (_table_by_length if work in BY_LENGTH else _table)(results)
    parts.append(
        "Times are medians with half the range of all samples; in brackets the part of the speed "
        "that the machine allows, and the peak of memory beyond that of the weights."
    )
    return "\n".join(parts) + "\n"


def _machine(machine):
    name = f"{machine['processor']}, {machine['cores']} cores"
    if "reason" in machine:
        return f"{name}; what it can do was not measured: {machine['reason']}"
    rates = ", ".join(
        f"{rate / 1e9:,.0f} G operations/s in {dtype}"
        for dtype, rate in machine["operations_per_second"].items()
    )
    return f"{name}: reads {machine['bytes_per_second'] / 1e9:.1f} GB/s, {rates}. 270M shape" + (
        "." if machine["layers"] == 18 else f" of {machine['layers']} layers."
    )


def _table_by_length(results):
    """A table for each dtype and number of rows: who, and a column for each length."""
    for dtype, batch in _in_order((result["dtype"], result["batch"]) for result in results):
        some = [r for r in results if (r["dtype"], r["batch"]) == (dtype, batch)]
        lengths = sorted({result["length"] for result in some})
        by_place = {(_name(result), result["length"]): result for result in some}
        yield _rows(
            [f"{dtype}, batch {batch}", *(f"{length:,} encoder tokens" for length in lengths)],
            [
                [name, *(_cell(by_place.get((name, length))) for length in lengths)]
                for name in _in_order(_name(result) for result in some)
            ],
        )


def _table(results):
    first = results[0]
    head = [f"batch {first['batch']}, {first['length']:,} encoder tokens"]
    if first["work"] == "train":
        head = [f"{head[0]}, {first['tokens']:,} decoder tokens"]
    if first["work"] in ("import", "load"):
        head = [""]
    if first["work"] in ("rows", "loop"):
        head = [f"{first['batch']} rows of up to {first['length']:,} encoder tokens"]
    cells = [[f"{_name(result)}, {result['dtype']}", _cell(result)] for result in results]
    for key in ("first token", "beyond"):
        if any(key in run for result in results for run in result["runs"]):
            head.append({"first token": "to the first token"}.get(key, "beyond what it builds on"))
            for row, result in zip(cells, results, strict=True):
                known = [run[key] for run in result["runs"] if key in run]
                row.append(_time(statistics.median(known)) if known else "")
    if first["work"] in ("rows", "loop"):
        head.append("new tokens a second")
        for row, result in zip(cells, results, strict=True):
            count = result["batch"] * result["tokens"]
            row.append(f"{count / result['seconds']:.1f}" if result["seconds"] else "")
    yield _rows([head[0], "", *head[1:]], cells)


def _rows(head, cells):
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(result):
    if result is None:
        return "not asked for"
    if result["reason"]:
        return result["reason"].replace("|", "/")
    text = f"{_time(result['seconds'])} ± {_time(result['spread'], like=result['seconds'])}"
    notes = []
    if result["limit"]:
        notes.append(f"{result['limit'] / result['seconds']:.2f}")
    if result["bytes"] is not None:
        notes.append(f"{result['bytes'] / _GIB:.2f} GiB")
    return f"{text} ({', '.join(notes)})" if notes else text


def _time(seconds, like=None):
    """In milliseconds or seconds; `like` another time, without its unit."""
    factor, unit, large = (1, "s", 9.995) if (like or seconds) >= 1 else (1000, "ms", 99.95)
    number = f"{seconds * factor:.{1 if (like or seconds) * factor >= large else 2}f}"
    return number if like is not None else f"{number} {unit}"


def _name(result):
    backend = "" if result["implementation"] == "transformers" else f", {result['backend']}"
    return f"{result['implementation']}{backend}"


def _in_order(items):
    return list(dict.fromkeys(items))


# Picture --------------------------------------------------------------------------------------


def _draw(found):
    """By length: time above and memory below. Other works as bars. One dtype, the fewest rows."""
    from matplotlib import pyplot

    results = [r for r in found["results"] if r["dtype"] == found["results"][0]["dtype"]]
    works = _in_order(result["work"] for result in results)
    curves = [work for work in works if work in BY_LENGTH]
    bars = [work for work in works if work not in BY_LENGTH]
    rows = 2 * bool(curves) + bool(bars)
    columns = max(len(curves), len(bars))
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(4.2 * columns, 3.4 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set_visible(False)
    for column, work in enumerate(curves):
        some = _of_work(results, work)
        title = f"{work}, batch {some[0]['batch']}"
        _draw_curves(axes[0, column], some, "seconds", 1, f"{title}: seconds")
        _draw_curves(axes[1, column], some, "bytes", _GIB, f"{title}: GiB beyond weights")
    for column, work in enumerate(bars):
        _draw_bars(axes[-1, column], _of_work(results, work), f"{work}: seconds")
    if curves:
        figure.legend(*_entries(axes[0]), loc="outside upper center", ncols=2 * columns)
    return figure


def _of_work(results, work):
    some = [result for result in results if result["work"] == work]
    return [result for result in some if result["batch"] == min(r["batch"] for r in some)]


def _draw_curves(axis, results, key, unit, title):
    from matplotlib import ticker

    axis.set_visible(True)
    for name in _in_order(_name(result) for result in results):
        own = [result for result in results if _name(result) == name]
        known = [result for result in own if result[key] is not None and not result["reason"]]
        axis.errorbar(
            [result["length"] for result in known],
            [result[key] / unit for result in known],
            [result["spread"] for result in known] if key == "seconds" else None,
            fmt=_LINES[own[0]["backend"]],
            color=_COLORS[own[0]["implementation"]],
            label=name,
        )
    limits = {r["length"]: r["limit"] for r in results if key == "seconds" and r["limit"]}
    if limits:
        lengths = sorted(limits)
        values = [limits[length] for length in lengths]
        axis.plot(lengths, values, color="lightgray", linewidth=4, zorder=0, label="limit")
    axis.set(xscale="log", yscale="log", title=title, xlabel="encoder tokens")
    lengths = sorted({result["length"] for result in results})
    axis.set_xticks(lengths, [f"{length:,}" for length in lengths], minor=False)
    axis.set_xticks([], minor=True)
    for set_formatter in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        set_formatter(ticker.LogFormatter())
    axis.grid(alpha=0.3)


def _draw_bars(axis, results, title):
    axis.set_visible(True)
    names = [_name(result) for result in results]
    values = [result["seconds"] or 0 for result in results]
    colors = [_COLORS[result["implementation"]] for result in results]
    axis.barh(names, values, color=colors, xerr=[result["spread"] or 0 for result in results])
    for row, result in enumerate(results):
        if result["reason"]:
            axis.text(0, row, f" {result['reason'][:40]}", va="center", fontsize=7)
    axis.invert_yaxis()
    axis.tick_params(axis="y", labelsize=7)
    axis.set_title(title)


def _entries(axes):
    """Handles and labels of all curves, each once."""
    found = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    return list(found.values()), list(found)
