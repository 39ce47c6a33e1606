"""Which GPUs a process may use, without asking jax."""

import pytest

from trainer.distributed import gpus


@pytest.mark.parametrize("there", [(), ("0", "1", "2"), ("3",), ("2", "7", "10")])
def test_cuda_counts_the_gpus_that_are_there_from_0(tmp_path, there):
    """Also in a container that has some of the host's devices alone."""
    for name in (*map("nvidia{}".format, there), "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert gpus.installed(tmp_path) == ("0", "1", "2")[: len(there)]


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("4,5", ("4", "5")),
        (" GPU-1a, MIG-2b", ("GPU-1a", "MIG-2b")),
        ("2,-1,3", ("2",)),
        ("NoDevFiles", ()),
        ("", ()),
    ],
)
def test_cuda_visible_devices_ends_at_what_is_no_gpu(value, names):
    environ = {"CUDA_VISIBLE_DEVICES": value}
    assert gpus.usable(environ) == names
    assert gpus.usable({**environ, "JAX_PLATFORMS": "cpu"}) == ()
