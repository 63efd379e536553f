"""What the kernels use of torch that it keeps private; as `keras_t5gemma2.compat`."""
