"""What other libraries keep private is used in `compat` and in `kernels.compat`, and nowhere else.

Also counted are private attributes of our own classes that other files use: what still does is in
`TO_GO`. A test fails when something joins the list, and when something in it is gone and must be
struck out.
"""

import pytest
from foreign_names import names_of_parents, own_attributes, uses
from package_imports import FILES, PACKAGE, module_of

ROOMS = ("compat", "kernels.compat")

# Attributes of other libraries' objects that their documentation assigns.
PUBLIC = {
    "files.disk": {"argtypes =", "reserved ="},  # of a function of ctypes, of a `threading.local`
    "inspection.drawing": {"_repr_html_"},  # what notebooks ask any object for
    "kernels.export.saved_model": {"setattr(converter)"},  # options of TensorFlow's converter
    "kernels.loss.torch": {"dtypes ="},  # of a context of autograd
    "kernels.runtime.torch": {"backward_of =", "fixed ="},
    "kernels.runtime.torch_processes": {"grad ="},
    "messages": {"maxlong =", "maxother =", "maxstring ="},  # of `reprlib.Repr`
    "model.residual": {"autocast ="},
    "preprocessing.image_converter": {"height ="},  # of `keras.layers.Resizing`
    "vocabulary.vocabulary": {"normalizer =", "post_processor =", "pre_tokenizer ="},
}
# Hooks of the task that `from_preset` makes, which may be of another class than its own.
TO_GO = {"tasks.task": {"_check_given", "_load_head"}}


@pytest.mark.once
def test_foreign_insides_are_used_in_compat_only():
    found = {}
    for path in FILES:
        module = module_of(path)
        if not any(f"{module}.".startswith(f"{room}.") for room in ROOMS):
            names = names_of_parents().get(f"{PACKAGE.name}.{module}", {})
            found[module] = uses(path.read_text(), names, own_attributes())
    listed = {module: PUBLIC.get(module, set()) | TO_GO.get(module, set()) for module in found}
    new = {module: found[module] - listed[module] for module in found}
    gone = {module: listed[module] - found[module] for module in found}
    assert not any(new.values()), f"write a function in `compat`: {_without_empty(new)}"
    assert not any(gone.values()), f"no longer there, strike it out: {_without_empty(gone)}"
    assert set(PUBLIC) | set(TO_GO) <= set(found)


@pytest.mark.once
def test_kernels_have_private_names_of_their_own_backends_only():
    for path in sorted((PACKAGE / "kernels" / "compat").glob("*.py")):
        for name in uses(path.read_text()):
            assert "." not in name or name.split(".")[0] == path.stem, f"{path}: {name}"


def _without_empty(found):
    return {module: sorted(names) for module, names in found.items() if names}


@pytest.mark.once
@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("layer._tracker.lock()", {"_tracker"}),
        ("self._tracker.lock()", set()),
        ("super()._build(cls._names)", set()),
        ("self.model._initial_epoch = 1", {"_initial_epoch"}),
        ("keras.src.layers", {"src"}),
        ("import keras.src.layers", {"keras.src.layers"}),
        ("from keras.src.layers import Layer", {"keras.src.layers.Layer"}),
        ("from jax._src import core", {"jax._src.core"}),
        ("from keras_t5gemma2.model.blocks import _dense", {"keras_t5gemma2.model.blocks._dense"}),
        ("from . import layers", set()),
        ("gptq.linalg = None", {"linalg ="}),
        ("x.grad /= 2", {"grad ="}),
        ("self.rate = layer.known = 1", set()),
        ("getattr(x, '_layout', None)", {"_layout"}),
        ("hasattr(self, f'_{name}')", {"f'_{name}'"}),
        ("setattr(sampler, name, f)", {"setattr(sampler)"}),
        ("setattr(self, name, f)", set()),
        ("vars(self).pop('_kernel')", {"_kernel"}),
        ("vars(layer)['_kernel']", {"_kernel"}),
        ("row._replace(x=1)", set()),
        ("x.__dict__, __name__, _", set()),
        ("class A(B):\n    def _build(self):\n        self._mine", {"_build"}),
        ("class A(B):\n    def f(self):\n        self._kernel", {"_kernel"}),
        ("class B:\n    def _build(self):\n        self._kernel", set()),
    ],
)
def test_uses(text, want):
    assert uses(text, {"A": {"_build", "_kernel"}}, {"known"}) == want


@pytest.mark.once
def test_names_of_parents():
    names = names_of_parents()
    # Of the class itself, and of a mixin of it; set by Keras, and defined.
    assert {"_kernel", "_tracker"} <= names["keras_t5gemma2.lora.dense"]["Dense"]
    assert "_int8_call" in names["keras_t5gemma2.quantization.layers"]["Quantizable"]
    assert "_compile_loss" in names["keras_t5gemma2.tasks.trainable"]["TrainableTask"]
    assert not names["keras_t5gemma2.config"]["BackboneConfig"]
