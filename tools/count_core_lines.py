"""Counts the lines that somebody reads who follows the model from its config to generated text.

    python tools/count_core_lines.py

These are all lines of the files below, docstrings and comments too. What is no part of that way is
left out: how weights come in, quantization, adapters, checks of arrays, the kernels of one backend,
and of generation what only some calls use.
"""

import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "keras_t5gemma2"
FILES = (
    "config.py",
    *(
        f"model/{name}.py"
        for name in (
            *("backbone", "inputs", "embedder", "stacks", "blocks", "attention", "rotary", "norm"),
            *("residual", "vision", "gradient_checkpointing", "linear"),
        )
    ),
    *(f"kernels/attention/{name}.py" for name in ("dispatch", "reference")),
)
# Of generation/ all but these.
NOT_OF_EVERY_CALL = ("beam_search", "beams", "speculation", "streaming", "infilling", "warmup")


def counts():
    """Dict of the lines of each file, as `wc -l` counts them."""
    generation = sorted((PACKAGE / "generation").glob("*.py"))
    paths = [PACKAGE / name for name in FILES]
    paths += [path for path in generation if path.stem not in NOT_OF_EVERY_CALL]
    return {path.relative_to(PACKAGE): path.read_text().count("\n") for path in paths}


def main():
    """Prints the lines of each file, and of all together."""
    found = counts()
    for path, count in found.items():
        print(f"{count:6}  {path}")
    print(f"{sum(found.values()):6}  lines read from config to generate")


if __name__ == "__main__":
    main()
