# %% [markdown]
# # Several processes on PyTorch
#
# Each process has a copy of the model and a part of every batch, on a GPU of its own or on the
# CPU; `DistributedDataParallel` adds up their gradients. The result is that of one process with
# the whole batch, to rounding. Here two processes teach `t5gemma2_tiny` dates with dots, in a
# few minutes on two CPU cores:
#
#     torchrun --nproc-per-node 2 guides/07_data_parallel_torch.py
#
# Who needs no loop of their own calls `fit` after `init_process_group`, in each process with all
# of the rows: it reads its part of each batch, averages the gradients and gives the metrics of all
# processes. This guide shows the loop, for what `fit` cannot do.
#
# `--full` trains all weights and not an adapter. On several machines torchrun takes `--nnodes`,
# `--rdzv-backend c10d` and `--rdzv-endpoint`, and this file stays as it is.
#
# FSDP (`fully_shard`, `FullyShardedDataParallel`) does not work with Keras: it exchanges the
# parameters of the modules, and Keras's variables keep the old ones. A task refuses it. To train
# what is too large for one device, adapters on a model in bfloat16 are one way on PyTorch, and
# JAX is the other: there `fit` itself is spread over devices.

# %%
import argparse
import datetime
import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

import keras_t5gemma2

parser = argparse.ArgumentParser()
parser.add_argument("--full", action="store_true", help="train all weights, not an adapter")
parser.add_argument("--epochs", type=int, default=6)
parser.add_argument("--batch-size", type=int, default=30, help="rows, of all processes together")
options = parser.parse_args()

# %% [markdown]
# ## The processes
#
# torchrun says to each how many there are and which one it is. Keras puts its variables on the
# current GPU.

# %%
if torch.cuda.is_available():
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
rank, count = torch.distributed.get_rank(), torch.distributed.get_world_size()
keras.utils.set_random_seed(0)

# %% [markdown]
# ## Data
#
# Every process knows all rows, and reads its own: each batch is the same on all of them, and a
# process takes every `count`-th row of it. Where that does not come out even, rows are repeated
# that weigh nothing.

# %%
days = [datetime.date(1980, 1, 1) + datetime.timedelta(int(n)) for n in range(0, 9_600, 10)]
rows = {
    "encoder_text": [f"Write {day} with dots." for day in days],
    "decoder_text": [f"{day:%d.%m.%Y}" for day in days],
}


def batches(epoch):
    """This process's part of the batches of an epoch, as the model takes them."""
    order = np.random.default_rng(epoch).permutation(len(days))
    for start in range(0, len(order), options.batch_size):
        batch = order[start : start + options.batch_size]
        missing = -len(batch) % count
        weights = np.append(np.ones(len(batch), "float32"), np.zeros(missing, "float32"))
        batch = np.append(batch, batch[[0] * missing])
        texts = {name: [values[i] for i in batch[rank::count]] for name, values in rows.items()}
        yield lm.preprocess_samples(texts, sample_weight=weights[rank::count])


# %% [markdown]
# ## The model
#
# `DistributedDataParallel` wraps what computes the loss of a batch. It gives all processes the
# weights of the first one. Without images in a batch, nothing in the vision part has a gradient.

# %%
lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
lm.preprocessor.encoder_sequence_length = 32
lm.preprocessor.decoder_sequence_length = 16
if not options.full:
    lm.enable_lora(rank=8)
lm.compile(optimizer=keras.optimizers.Adam(2e-3), sampler="greedy")


def show(title):
    """Answers on days that are not in the data, by the first process."""
    questions = [f"Write {day} with dots." for day in ("1999-12-31", "2011-03-08", "1987-10-24")]
    if rank == 0:
        for question, answer in zip(
            questions, lm.generate(questions, max_new_tokens=16), strict=True
        ):
            print(f"{title}: {question} → {answer}", flush=True)


show("before")


class Loss(torch.nn.Module):
    def __init__(self, lm):
        super().__init__()
        self.lm = lm

    def forward(self, x, labels, weights):
        return self.lm.token_sums(x, labels, weights)


loss_of = DistributedDataParallel(Loss(lm), find_unused_parameters=options.full)

# %% [markdown]
# ## Training
#
# The loss is the sum over the tokens of all processes by the sum of their weights. The mean of the
# processes' own means would be another one, since their rows have different numbers of tokens.
# `DistributedDataParallel` divides gradients by the number of processes, which is taken back.

# %%
variables = lm.trainable_variables
for epoch in range(options.epochs):
    for x, labels, weights in batches(epoch):
        sums = loss_of(x, labels, weights)
        total = torch.stack([sums.loss.detach(), sums.weight])
        torch.distributed.all_reduce(total)
        lm.zero_grad()
        (sums.loss / total[1] * count).backward()
        with torch.no_grad():
            lm.optimizer.apply([variable.value.grad for variable in variables], variables)
        if rank == 0:
            print(f"epoch {epoch}, loss {float(total[0] / total[1]):.7f}", flush=True)

# %% [markdown]
# ## Saving
#
# All processes have the same weights: one of them writes.

# %%
if rank == 0:
    if options.full:
        lm.save_weights("trained.weights.h5")
    else:
        lm.save_adapter("trained.safetensors")
show("after")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
