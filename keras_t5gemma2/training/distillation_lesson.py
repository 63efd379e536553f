"""From rows to a training step that brings a student's own samples nearer to a teacher."""

import numpy as np

from keras_t5gemma2.options import counted
from keras_t5gemma2.training.on_policy_distillation import divergence_of
from keras_t5gemma2.training.samples import arrays_of, at_labels, draw, log_softmaxes_of


class DistillationLesson:
    """What a step learns of its rows, from a teacher.

    Args:
        task: `T5Gemma2Seq2SeqLM`, the student.
        distillation: `OnPolicyDistillation`.
        num_samples: int or `None`. Samples of each row, 1 by default.
    """

    keeps_an_average = False

    def __init__(self, task, distillation, num_samples):
        self.count = 1 if num_samples is None else counted("num_samples", num_samples)
        distillation.check(task)
        self.task, self.lesson = task, distillation

    def __call__(self, rows, epoch):
        """The batch of a step, (x, y), and a dict of numbers.

        Args:
            rows: list of `Row`.
            epoch: int.
        """
        lesson = self.lesson
        samples = draw(self.task, rows, self.count, lesson.max_new_tokens, (lesson.seed, epoch))
        student, teacher = (log_softmaxes_of(lm, samples) for lm in (self.task, lesson.teacher))
        found, slopes = divergence_of(student, teacher, lesson.divergence, lesson.beta)
        x = arrays_of(samples)
        labels = x.pop("labels")
        # The cross-entropy with shares t has the slope p - t: with these, it is the divergence's.
        shares = np.exp(student) - slopes
        ids = np.arange(shares.shape[1], dtype="int32")
        y = {
            "labels": np.maximum(labels, 0),
            "slopes": at_labels(labels, [np.full(len(found), 1.0 / len(found))]),
            "teacher_ids": np.broadcast_to(ids, (*labels.shape, len(ids))).copy(),
            "teacher_probabilities": np.zeros((*labels.shape, len(ids)), "float32"),
        }
        y["teacher_probabilities"][labels >= 0] = shares
        return x, y, {"loss": found.mean(), **samples.numbers()}
