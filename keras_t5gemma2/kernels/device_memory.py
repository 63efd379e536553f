"""How much memory a device has."""


def device_memory(name):
    """Bytes that JAX can use on the device `name`, such as "gpu:0"; `None` where it cannot tell."""
    import jax

    platform, number = name.split(":")
    device = next(d for d in jax.devices(platform) if d.id == int(number))
    if device.process_index != jax.process_index():  # only its own process can ask
        device = jax.local_devices(backend=device.platform)[0]
    return (device.memory_stats() or {}).get("bytes_limit")
