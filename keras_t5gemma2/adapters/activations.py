"""The directions of the inputs of layers, from one pass over rows: what EVA starts from."""

import numpy as np
from keras import ops

from keras_t5gemma2.kernels.runtime.host_memory import host_array
from keras_t5gemma2.lora.principal import Principal
from keras_t5gemma2.lora.watching import watching
from keras_t5gemma2.messages import shown

# Layers that read one tensor are called soon after one another.
_REMEMBERED = 8
_LEAST = 64  # components that are kept of each tensor until the end


def principal_inputs(task, rows, counts, batch_size=8):
    """What the inputs of layers differ in most, over the tokens of some rows without padding.

    Args:
        task: task with a decoder or without.
        rows: as `fit` takes them.
        counts: dict by the paths of layers: how many components each may need.
        batch_size: int. Rows at a time.

    Returns:
        Dict of `Principal` by the same paths.

    Raises:
        ValueError: there are too few tokens for so many components.
    """
    streams = _Streams(counts)
    every, *_ = task.preprocess_samples(rows)
    for start in range(0, len(every["encoder_token_ids"]), batch_size):
        x = {name: values[start : start + batch_size] for name, values in every.items()}
        x = _with_lengths_apart(_without_padding(x))
        streams.begin(x)
        with watching(streams.see):
            task.backbone(task.backbone.complete(x), training=False)
    return streams.found()


class _Streams:
    """The components of each tensor that layers read, of which several may read the same."""

    def __init__(self, counts):
        self.counts = counts
        # More than are needed: what is left out in between moves those that are kept.
        self.most = max(_LEAST, 2 * max(counts.values()))
        self.streams = []  # a `Principal` each, in the order in which a batch brings them
        self.of_layers = {path: [] for path in counts}

    def begin(self, x):
        self.masks = {
            side: np.asarray(host_array(ops.convert_to_tensor(x[f"{side}_padding_mask"])), bool)
            for side in ("encoder", "decoder")
            if f"{side}_padding_mask" in x
        }
        self.seen, self.number = [], 0

    def see(self, layer, x):
        if layer.path not in self.counts:
            return
        number = next((number for old, number in self.seen if old is x), None)
        if number is None:
            number = self.number
            self.number += 1
            self._take(number, x)
        self.seen = [*(one for one in self.seen if one[1] != number), (x, number)][-_REMEMBERED:]
        if number not in self.of_layers[layer.path]:
            self.of_layers[layer.path].append(number)

    def _take(self, number, x):
        if number == len(self.streams):
            self.streams.append(Principal(self.most))
        values = host_array(ops.convert_to_tensor(ops.cast(x, "float32")))
        mask = next(m for m in self.masks.values() if m.shape == values.shape[:2])
        self.streams[number].add(values[mask])

    def found(self):
        found = {}
        for path, numbers in self.of_layers.items():
            first, *others = (self.streams[number] for number in numbers)
            if others:  # keys and values read the encoder's output, and the decoder's own
                merged = Principal(self.most)
                for stream in (first, *others):
                    merged.merge(stream)
                first = merged
            needed = self.counts[path]
            if len(first.lengths) < min(needed, len(first.mean)):
                raise ValueError(
                    "`data` must have more tokens than there are components. Received: "
                    f"{first.seen} tokens for {needed} components of {shown(path)}. Give more "
                    "rows."
                )
            found[path] = first
        return found


def _without_padding(x):
    """A batch whose sides end where their longest rows do."""
    for side in ("encoder", "decoder"):
        if (mask := x.get(f"{side}_padding_mask")) is not None:
            end = int(np.flatnonzero(mask.any(axis=0))[-1]) + 1
            names = (f"{side}_token_ids", f"{side}_padding_mask")
            x = {**x, **{name: x[name][:, :end] for name in names}}
    return x


def _with_lengths_apart(x):
    """A batch whose two sides have unequal lengths, by which a tensor tells of which it is."""
    lengths = [x[f"{side}_token_ids"].shape[1] for side in ("encoder", "decoder")
               if f"{side}_token_ids" in x]  # fmt: skip
    if len(lengths) < 2 or lengths[0] != lengths[1]:
        return x
    longer = {
        name: np.pad(x[name], [(0, 0), (0, 1)])
        for name in ("decoder_token_ids", "decoder_padding_mask")
    }
    return {**x, **longer}
