"""Ranks for the layers of a model, suggested by what their inputs look like on some rows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keras_t5gemma2.adapters.activations import principal_inputs
from keras_t5gemma2.adapters.starts import without_adapters
from keras_t5gemma2.lora import targets
from keras_t5gemma2.lora.principal import shared_ranks
from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import integer
from keras_t5gemma2.typing import Inputs

if TYPE_CHECKING:
    from keras_t5gemma2.tasks.task import T5Gemma2Task

# Without a bound, one layer of few directions could get as many ranks as it is wide.
_TIMES_THE_MEAN = 4


class RankSuggestion(dict):
    """A rank for each layer by its path, as `enable_lora(rank_pattern=)` takes it.

    Attributes:
        shares: dict from the same paths to floats: the part of the variance of the layer's inputs
            that lies in as many directions as its rank.
        budget: int. What the ranks add up to at most.

    Example:

    >>> found = keras_t5gemma2.RankSuggestion({"encoder/layer_0/mlp/up": 3}, {}, budget=4)
    >>> sum(found.values())
    3
    """

    def __init__(self, ranks: dict[str, int], shares: dict[str, float], budget: int) -> None:
        super().__init__(ranks)
        self.shares, self.budget = shares, budget

    def table(self) -> str:
        """A table in Markdown: a line for each layer, with its rank and its share.

        Example:

        >>> path = "encoder/layer_0/mlp/up"
        >>> print(keras_t5gemma2.RankSuggestion({path: 3}, {path: 0.5}, budget=4).table())
        | layer | rank | share of the inputs' variance |
        | --- | --- | --- |
        | encoder/layer_0/mlp/up | 3 | 0.500 |
        """
        lines = ["| layer | rank | share of the inputs' variance |", "| --- | --- | --- |"]
        lines += [f"| {path} | {rank} | {self.shares[path]:.3f} |" for path, rank in self.items()]
        return "\n".join(lines)

    def plot(self) -> Any:
        """A figure of the ranks: a row for each kind of projection, a column for each layer.

        Returns:
            A figure of matplotlib, which `savefig` writes.

        Raises:
            ImportError: matplotlib is not installed.

        Example:

        >>> path = "encoder/layer_0/mlp/up"
        >>> figure = keras_t5gemma2.RankSuggestion({path: 3}, {path: 0.5}, budget=4).plot()
        >>> figure.savefig(directory / "ranks.png")
        """
        try:
            from matplotlib import figure as figures
        except ImportError as error:
            raise ImportError(
                "`plot` needs matplotlib: install it by `pip install matplotlib`"
            ) from error
        columns = list(dict.fromkeys(_column(path) for path in self))
        rows = list(dict.fromkeys(_kind(path) for path in self))
        figure = figures.Figure(
            figsize=(2 + 0.4 * len(columns), 1.5 + 0.3 * len(rows)), layout="constrained"
        )
        axis = figure.subplots()
        grid = [[float("nan")] * len(columns) for _ in rows]
        for path, rank in self.items():
            row, column = rows.index(_kind(path)), columns.index(_column(path))
            grid[row][column] = rank
            axis.text(column, row, str(rank), ha="center", va="center", fontsize=8, color="gray")
        image = axis.imshow(grid, aspect="auto", vmin=0)
        axis.set_xticks(range(len(columns)), columns, rotation=90)
        axis.set_yticks(range(len(rows)), rows)
        figure.colorbar(image, label="rank")
        return figure


def suggest_ranks(
    lm: "T5Gemma2Task",
    rows: Inputs,
    budget: int,
    target: str | Sequence[str] = "text",
    batch_size: int = 8,
) -> RankSuggestion:
    """Ranks for the layers, which share a budget by how their inputs vary.

    One pass over the rows finds for each layer the directions in which its inputs vary most; those
    that have the largest part of their layer's variance get a rank (EVA, arXiv 2410.07170). It
    says which layers read inputs of many directions, not which ones a task changes: compare it
    with one rank for all, and with `AdaptiveRank`, which goes by gradients in training.

    Args:
        lm: the task, whose adapters do not count.
        rows: as `fit` takes them, some hundreds.
        budget: int. What the ranks add up to; a mean rank of r is r times the number of layers.
        target: which layers, as `enable_lora` has it.
        batch_size: int. Rows at a time.

    Returns:
        `RankSuggestion`, a dict of ranks by the paths of layers, with a table and a picture.

    Raises:
        ValueError: `budget` is no positive integer, `target` means no layer, or there are too few
            tokens.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> texts = [f"Spell {n} in German." for n in range(20)]
    >>> rows = {"encoder_text": texts, "decoder_text": ["eins"] * 20}
    >>> ranks = keras_t5gemma2.suggest_ranks(lm, rows, budget=12, target=["query", "value"])
    >>> len(ranks), sum(ranks.values())
    (12, 12)
    >>> lm.enable_lora(rank=1, target=["query", "value"], rank_pattern=ranks)
    """
    if (count := integer(budget)) is None or count < 1:
        raise ValueError(
            f"`budget` must be a positive integer, the sum of all ranks. Received: "
            f"budget={shown(budget)}"
        )
    layers = targets.dense_layers(lm.backbone)
    paths = targets.resolve(target, lm.backbone)
    bound = -(-_TIMES_THE_MEAN * count // len(paths))
    most = {path: min(bound, *layers[path].matrix_shape) for path in paths}
    with without_adapters(lm):
        found = principal_inputs(lm, rows, most, batch_size)
    every = {path: found[path].shares[: most[path]] for path in paths}
    ranks = shared_ranks(every, count)
    shares = {path: float(every[path][:rank].sum()) for path, rank in ranks.items()}
    return RankSuggestion(ranks, shares, count)


def _kind(path):
    return path.rpartition("/")[2]


def _column(path):
    stack, layer, *_ = path.split("/")
    return f"{stack} {layer.removeprefix('layer_')}"
