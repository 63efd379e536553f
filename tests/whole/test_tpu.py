"""What the package compiles for TPUs that are only described: every public path, from shapes."""

import pytest
from ahead_of_time import (
    KINDS,
    Described,
    collectives_in,
    config,
    kernels_in,
    temp,
    why_not,
)

from keras_t5gemma2 import kernels
from keras_t5gemma2.planning.plan import plan
from keras_t5gemma2.planning.work import Work

pytestmark = [
    pytest.mark.tpu,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]
MESHES = {"one": (1, 1), "2x2": (2, 2), "1x4": (1, 4)}


def everywhere(test):
    of_mesh = pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES)
    return pytest.mark.parametrize("kind", KINDS)(of_mesh(test))


@everywhere
def test_the_encoder_compiles_with_the_kernel_in_every_layer(kind, mesh):
    program = Described(config(2), kind, mesh).encode(4, 512)
    assert kernels_in(program) == 2
    if mesh == (1, 4):
        # Two for each layer, and one where rows of the table are looked up.
        assert collectives_in(program) == {"all-reduce": 5}


@everywhere
@pytest.mark.parametrize("sampler", ["greedy", "top_p", "beam"])
def test_generation_compiles(kind, mesh, sampler):
    """The encoder, the reading of a prompt, and the loop of steps: one program."""
    program = Described(config(), kind, mesh, sampler=sampler).generate()
    assert kernels_in(program) == 1 and " while(" in program.as_text()


@everywhere
def test_generation_from_images_compiles(kind, mesh):
    """With the kernel in the vision tower too."""
    program = Described(config(images=True), kind, mesh).generate(length=512, images=1)
    assert kernels_in(program) == 2


# A program takes a minute: on v6e one mesh is enough.
@pytest.mark.parametrize(
    ("kind", "mesh"),
    [*(("v5e", mesh) for mesh in MESHES.values()), ("v6e", (2, 2))],
    ids=[*(f"v5e-{name}" for name in MESHES), "v6e-2x2"],
)
@pytest.mark.parametrize(
    "options", [{}, {"lora": True}, {"checkpointing": True}], ids=["full", "lora", "checkpointing"]
)
def test_a_step_of_fit_compiles(kind, mesh, options):
    """Of the published vocabulary, and with it several chunks of the loss."""
    program = Described(config(1, 262_144), kind, mesh, **options).fit()
    # Forward, and the gradients of queries and of keys; once more where it is computed again.
    assert kernels_in(program) == 3 + options.get("checkpointing", 0)


@pytest.mark.parametrize(("kind", "mesh"), [("v5e", (1, 1)), ("v6e", (2, 2))], ids=["v5e", "v6e"])
def test_a_step_of_fit_on_images_compiles(kind, mesh):
    program = Described(config(images=True), kind, mesh).fit(length=512, images=1)
    assert kernels_in(program) == 4  # the vision tower is frozen


# Memory -----------------------------------------------------------------------------------------


def encoded(length):
    return Described(config(2)).encode(1, length)


def prompted(length):
    return Described(config(2)).generate(1, length=128, prompt=length)


def trained(length):
    return Described(config(2), checkpointing=True).fit(1, length, length)


@pytest.mark.parametrize("make", [encoded, prompted, trained])
def test_memory_grows_with_the_length_and_not_with_its_square(make):
    short, long = (temp(make(length)) for length in (1024, 2048))
    assert long < 2.2 * short


def test_memory_of_all_scores_would_be_seen():
    """Scores of all tokens with all do not pass the test above."""
    with kernels.use("reference"):
        short, long = (temp(encoded(length)) for length in (1024, 2048))
    assert long > 2.2 * short


WORKS = {
    "encode": Work("inference", encoder_length=4096, decoder_length=32),
    "fit": Work("fit", encoder_length=4096, decoder_length=512),
    "lora": Work("lora", encoder_length=4096, decoder_length=512, rank=8),
}


@pytest.mark.parametrize("name", WORKS)
def test_memory_is_as_planned(name):
    work, of = WORKS[name], config(2, 262_144)
    planned = plan(of, work)
    described = Described(of, lora=name == "lora", checkpointing=True)
    if name == "encode":
        program = described.generate(1, work.encoder_length, prompt=1, room=work.decoder_length)
    else:
        program = described.fit(1, work.encoder_length, work.decoder_length)
    # The weights and what the optimizer keeps are no intermediate values.
    limit = planned.gradients + planned.activations + planned.cache
    assert temp(program) <= 1.25 * limit
