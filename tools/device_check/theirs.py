"""The same works of transformers, eager, and steps compiled with a static cache."""

import tempfile

import torch
import transformers
from device_check import devices, speed


def records(model):
    """Yields a dict for each work, of the eager model and then of the compiled one."""
    theirs = Transformers(model)
    for found in speed.measured(theirs, model):
        yield {**found, "by": "transformers"}
    theirs.compile()
    for found in speed.measured(theirs, model):
        yield {**found, "by": "transformers, compiled"}


class Transformers:
    """A random model of transformers, on the GPU where there is one.

    Args:
        model: a name of `speed.SHAPES`.
    """

    def __init__(self, model):
        sizes = devices.of_benchmarks("sizes")
        self.shape = sizes.Sizes(**speed.SHAPES[model])
        with tempfile.TemporaryDirectory() as directory:
            sizes.write_config(directory, self.shape, "tiny")
            config = transformers.AutoConfig.from_pretrained(directory)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        with torch.device(self.device):
            found = transformers.AutoModelForSeq2SeqLM.from_config(config, dtype=torch.bfloat16)
        self.model, self._compiled = found.to(self.device).eval(), False
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0
        self.options = {}

    def compile(self):
        """What its documentation says makes steps quick; it compiles nothing else here."""
        self._compiled = True
        self.options = {"cache_implementation": "static"}
        mode = "reduce-overhead" if self.device == "cuda" else "default"
        self.model.forward = torch.compile(self.model.forward, mode=mode)

    def step(self, batch, length):
        ids, mask = self._arrays(batch, length)
        start = torch.full((batch, 1), 2, device=self.device)

        @torch.inference_mode()
        def generate(count):
            self.model.generate(
                **{"input_ids": ids, "attention_mask": mask, "decoder_input_ids": start},
                **{"max_new_tokens": count, "min_new_tokens": count, "do_sample": False},
                **self.options,
            )

        few, most = (
            devices.best_seconds(lambda count=count: self._waited(lambda: generate(count)))
            for count in (2, speed.MOST_NEW)
        )
        return (most - few) / (speed.MOST_NEW - 2)

    def encode(self, batch, length):
        self._only_eager()
        ids, mask = self._arrays(batch, length)
        encoder = self.model.get_encoder()

        @torch.inference_mode()
        def run():
            encoder(input_ids=ids, attention_mask=mask)

        return devices.best_seconds(lambda: self._waited(run))

    def train(self, batch, length):
        """As ours: adapters on every projection, and what is kept computed again."""
        self._only_eager()
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        stacks = (self.model.get_encoder(), self.model.get_decoder())
        adapters = [x for stack in stacks for x in _adapters(stack)]
        self.model.gradient_checkpointing_enable({"use_reentrant": False})
        optimizer = torch.optim.Adam([p for x in adapters for p in x.trained])
        ids, mask = self._arrays(batch, length)
        labels, _ = (x[:, : speed.TARGETS] for x in self._arrays(batch, speed.TARGETS))

        def run():
            optimizer.zero_grad()
            self.model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
            optimizer.step()

        try:
            self.model.train()
            return devices.best_seconds(lambda: self._waited(run))
        finally:
            self.model.eval()
            for adapter in adapters:
                adapter.remove()

    def _only_eager(self):
        if self._compiled:
            raise NotImplementedError("steps alone are compiled")

    def _arrays(self, batch, length):
        arrays = speed.arrays(batch, length, self.shape.vocabulary)
        return [torch.from_numpy(x).long().to(self.device) for x in arrays]

    def _waited(self, run):
        run()
        if self.device == "cuda":
            torch.cuda.synchronize()


def _adapters(stack):
    """An adapter on each projection of the layers of text."""
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    for name, module in stack.named_modules():
        if name.split(".")[-1] in names and "vision" not in name:
            yield _Adapter(module)


class _Adapter:
    """What is added to the output of a linear layer: two narrow products in float32."""

    def __init__(self, linear):
        device = linear.weight.device
        a = torch.randn(speed.RANK, linear.in_features, device=device) * 0.02
        b = torch.zeros(linear.out_features, speed.RANK, device=device)
        self.trained = [x.requires_grad_() for x in (a, b)]
        self.remove = linear.register_forward_hook(self._add).remove

    def _add(self, _, inputs, output):
        a, b = (x.to(output.dtype) for x in self.trained)
        return output + (inputs[0] @ a.T) @ b.T
