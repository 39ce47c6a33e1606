"""The device mesh, its shardings, and host batches -> global arrays."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from trainer.job.errors import ConfigError

AXIS = "data"  # the one axis of a mesh, unless parallel.mesh names two
REPLICA, SHARD = "replica", "shard"  # devices along the second share one copy of the state


def make_mesh(
    local_devices: int | None, replicas: int | None = None, shards: int | None = None
) -> Mesh:
    """Lay `local_devices` devices of every process (None: all) out along the axis "data".

    With `replicas` or `shards`, along two axes: so many copies of the state, each shared by so many
    devices side by side, of one process where they fit. In any case every device has a slice of
    each batch, in this order.

    Raises:
        ConfigError: fewer local devices are there than asked for, or they do not divide.
    """
    there = jax.local_device_count()
    if local_devices is not None and local_devices > there:
        raise ConfigError(
            f"parallel.devices={local_devices}: this process has {there} local devices",
            f"use at most {there}, or leave it out to use all",
        )
    processes = range(jax.process_count())
    used = [d for i in processes for d in jax.local_devices(process_index=i)[:local_devices]]
    if replicas is None and shards is None:
        return Mesh(np.array(used), (AXIS,))
    shape = check_shape(len(used), replicas, shards)
    return Mesh(np.array(used).reshape(shape), (REPLICA, SHARD))


def check_shape(devices: int, replicas: int | None, shards: int | None) -> tuple[int, int]:
    """Return parallel.mesh for so many devices, of which one number may be left out. Pure.

    Raises:
        ConfigError: replicas times shards is another number.
    """
    shape = (replicas or devices // (shards or 1), shards or devices // (replicas or 1))
    if shape[0] * shape[1] != devices:
        given = {"replica": replicas, "shard": shards}
        options = " ".join(f"parallel.mesh.{k}={v}" for k, v in given.items() if v is not None)
        rule = f"replica times shard has to be {devices}, the number of devices"
        raise ConfigError(f"{options}: {rule}", "use numbers that are, or leave one of them out")
    return shape


def check_method(method: str, processes: int) -> None:
    """Check parallel.method against the number of processes. Pure.

    Raises:
        ConfigError: jax's pmap, called within jit, sees the devices of its own process only.
    """
    if method == "pmap" and processes > 1:
        raise ConfigError(
            f"parallel.method=pmap: works in one process only, and there are {processes}",
            "leave it at shard_map",
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a superbatch [K, batch, ...]: devices share dim 1."""
    return NamedSharding(mesh, rows(mesh))


def rows(mesh: Mesh) -> PartitionSpec:
    """Return how devices share dim 1, over all axes of the mesh."""
    return PartitionSpec(None, mesh.axis_names)


def local_rows(mesh: Mesh, global_batch_size: int) -> slice:
    """Return which rows of every global batch this process loads: those of its own devices."""
    each = global_batch_size // mesh.size
    mine = [i for i, d in enumerate(mesh.devices.flat) if d.process_index == jax.process_index()]
    return slice(mine[0] * each, (mine[-1] + 1) * each)


def check_division(
    devices: int, global_batch_size: int, virtual_shards: int | None, accumulate: int
) -> None:
    """Check that a batch divides over devices, with the virtual shards and train.accumulate. Pure.

    Raises:
        ConfigError: they do not divide.
    """
    batch, over = f"train.global_batch_size={global_batch_size}", f"over {devices} devices"
    shards, parts = devices, f"train.accumulate={accumulate}"
    checks = [(batch, global_batch_size, devices, over)]
    if virtual_shards is not None:
        own = f"parallel.virtual_shards={virtual_shards}"
        checks.append((own, virtual_shards, devices, over))
        shards, parts = virtual_shards, own if accumulate == 1 else f"{own} x {parts}"
    elif devices > 1:
        parts += f" on {devices} devices"
    checks.append((batch, global_batch_size, shards * accumulate, f"into {parts}"))
    for what, size, divisor, where in checks:
        if size % divisor:
            raise ConfigError(f"{what} does not divide {where}", f"use a multiple of {divisor}")


def place(sharding: NamedSharding, local: Any) -> Any:
    """Start copying a pytree of host arrays to the devices; returns global arrays.

    Sharded along dim 1, each process gives the rows of its own devices; replicated, each gives the
    whole, which has to be the same everywhere (nobody checks).
    """
    if jax.process_count() == 1:
        return jax.device_put(local, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), local)


def spread(shardings: Any, whole: Any) -> Any:
    """Copy a pytree of whole host arrays, the same on all processes, to the devices.

    `shardings` has the sharding of each; a process copies the parts of its own devices.
    """

    def one(sharding: NamedSharding, array: Any) -> jax.Array:
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(one, shardings, whole)
