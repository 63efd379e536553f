"""A short run, the same under any strategy; `test_mirrored_strategy` starts it in a process too."""

import keras
from resumed_runs import MANY
from tasks import small_task


def trained(is_lora):
    keras.utils.set_random_seed(0)
    lm = small_task()
    if is_lora:
        lm.enable_lora(2)
        lm.compile(optimizer=keras.optimizers.SGD(0.5))
    keras.utils.set_random_seed(0)
    # Rows of different numbers of tokens, and a last batch that two devices cannot halve.
    options = {"batch_size": 4, "epochs": 2, "verbose": 0}
    validation = {"validation_data": MANY} if is_lora else {}
    return lm, lm.fit(MANY, **options, **validation).history
