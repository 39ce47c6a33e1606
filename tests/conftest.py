"""Eight simulated devices, strict dtypes and ranks, no implicit transfer, the real data set."""

import os
from pathlib import Path

# Before jax is imported. One thread a device: eight devices that share two cores' threads can
# wait for each other in a collective.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder of the four real MNIST files, named by TRAINER_MNIST_DIR."""
    folder = os.environ.get("TRAINER_MNIST_DIR")
    if not folder:
        pytest.skip("set TRAINER_MNIST_DIR to the folder of the four MNIST files")
    return Path(folder)
