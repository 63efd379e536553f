"""Measures `t5gemma2_tiny` on numbers, dates and images that its training never saw.

pip install ".[torch,tiny,evaluation]"
KERAS_BACKEND=torch python tools/tiny/evaluate.py --rows 500
KERAS_BACKEND=torch python tools/tiny/evaluate.py --rows 500 --quantize int4
"""

import argparse

import data

from keras_t5gemma2 import T5Gemma2Seq2SeqLM, evaluate_generation


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="t5gemma2_tiny", help="a name, or a directory")
    parser.add_argument("--rows", type=int, default=500, help="of each task, at most")
    parser.add_argument("--cache-dtype", default="auto", help="auto or int8, as of the task")
    parser.add_argument("--quantize", choices=["int8", "int4"], help="weights, as they are read")
    arguments = parser.parse_args()
    lm = T5Gemma2Seq2SeqLM.from_preset(arguments.preset, quantize=arguments.quantize)
    lm.cache_dtype = arguments.cache_dtype
    lm.compile(sampler="greedy")
    print(as_table(evaluate(lm, arguments.rows, verbose="auto")))


def evaluate(lm, rows, verbose=0):
    """The `Evaluation` of each task of `data.held_out_examples`, by its name."""
    return {
        task: evaluate_generation(
            lm,
            data.rows_of(examples),
            batch_size=100,
            metrics=["exact_match", "chrf"],
            verbose=verbose,
            max_new_tokens=40,
        )
        for task, examples in data.held_out_examples(rows).items()
    }


def as_table(results):
    """Markdown, a line for each task."""
    lines = ["| task | rows | exact match | chrF |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {task} | {result.rows} | {result['exact_match']:.1f} % | {result['chrf']:.1f} |"
        for task, result in results.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
