"""`fit` on what a task itself writes: its arguments, and validation at the end of an epoch."""

import keras

from keras_t5gemma2.messages import shown
from keras_t5gemma2.training.distillation_lesson import DistillationLesson
from keras_t5gemma2.training.policy_gradient import check_no_rewards
from keras_t5gemma2.training.policy_lesson import PolicyLesson
from keras_t5gemma2.training.sampled_fit import fit_on_samples


def fit_on_own_samples(task, x, arguments, given, options):
    """See `T5Gemma2Seq2SeqLM.fit`.

    Args:
        task: `T5Gemma2Seq2SeqLM`.
        x: rows.
        arguments: tuple of `rewards`, `num_samples`, `policy` and `distillation`.
        given: dict of arguments that do not go with them.
        options: tuple of `batch_size`, `shuffle`, `columns`, `validation_data`, its batch size, and
            a dict of what `keras.Model.fit` has.
    """
    rewards, num_samples, policy, distillation = arguments
    what = "`rewards`" if rewards is not None else "`OnPolicyDistillation`"
    if rewards is not None:
        given = {**given, "distillation": distillation}
    if wrong := [name for name, value in given.items() if value is not None]:
        raise ValueError(
            f"`{wrong[0]}` does not go with {what}: the model learns from its own samples. "
            f"Received: {wrong[0]}={shown(given[wrong[0]])}"
        )
    batch_size, shuffle, columns, data, size, kwargs = options
    if rewards is not None:
        lesson = PolicyLesson(task, rewards, num_samples, policy)
    else:
        check_no_rewards(policy=policy)
        lesson = DistillationLesson(task, distillation, num_samples)

    def validate():
        if data is None:
            return {}
        parts = data if isinstance(data, tuple) else (data,)  # a list is of rows
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(parts)
        named = {"x": x, "y": y, "sample_weight": sample_weight, "columns": columns}
        return task.evaluate(**named, batch_size=size or batch_size, verbose=0, return_dict=True)

    return fit_on_samples(task, x, lesson, batch_size, shuffle, columns, validate, kwargs)
