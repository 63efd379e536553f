"""What the kernels use of torch and JAX that these keep private; as `keras_t5gemma2.compat`."""
