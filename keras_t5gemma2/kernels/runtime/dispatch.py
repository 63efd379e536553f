"""The runtime of the backend that is in use."""

import importlib

import keras

_backend = importlib.import_module(f"keras_t5gemma2.kernels.runtime.{keras.config.backend()}")

# Whether loops run as compiled programs, which copy what they cannot write in place.
IS_COMPILED = keras.config.backend() != "torch"

by_platform = _backend.by_platform
check_parameters = _backend.check_parameters
compiled = _backend.compiled
compiled_step = _backend.compiled_step
compiles = _backend.compiles
differentiable = _backend.differentiable
has_mark = _backend.has_mark
is_one_cpu = _backend.is_one_cpu
is_traced = _backend.is_traced
map_blocks = _backend.map_blocks
mark_of = _backend.mark_of
platform_at_hand = _backend.platform_at_hand
platform_of = _backend.platform_of
num_replicas = _backend.num_replicas
prepare_training = _backend.prepare_training
rematerialized = _backend.rematerialized
summed_over_replicas = _backend.summed_over_replicas
sums_of_metrics = _backend.sums_of_metrics
