"""Models in processes that are forked."""

import multiprocessing
import os

import keras
import pytest
from tasks import SMALL_ROWS, small_task

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


def in_a_fork(function):
    """What the function gives, or the error that it raises, in a forked process."""
    here, there = multiprocessing.Pipe()
    pid = os.fork()
    if pid == 0:
        try:
            there.send(function())
        except BaseException as error:
            there.send(error)
        finally:
            os._exit(0)
    try:
        assert here.poll(60), "the forked process hangs"
        return here.recv()
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


@pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning", "ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    "use",
    [
        lambda lm: lm.generate("the cat", max_new_tokens=3),
        pytest.param(lambda lm: lm.evaluate(SMALL_ROWS, verbose=0), marks=pytest.mark.once),
    ],
    ids=["generate", "evaluate"],
)
def test_a_model_works_in_a_forked_process_or_says_why_not(use):
    lm = small_task()
    want = use(lm)
    got = in_a_fork(lambda: use(lm))
    if keras.config.backend() == "torch":
        assert got == want
    else:
        assert isinstance(got, RuntimeError) and "in the process that made it" in str(got)


@pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning", "ignore:.*fork:DeprecationWarning")
def test_data_is_prepared_in_a_forked_process():
    """As by the workers of a torch `DataLoader`."""
    lm = small_task()
    want = lm.preprocessor(SMALL_ROWS)[0]["encoder_token_ids"]
    got = in_a_fork(lambda: lm.preprocessor(SMALL_ROWS)[0]["encoder_token_ids"])
    assert got.tolist() == want.tolist()
