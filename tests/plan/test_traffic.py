"""What a compiled program sends and computes, counted in its text and in its operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from trainer.job.errors import UnavailableError
from trainer.parallel.mesh import AXIS, make_mesh
from trainer.plan.traffic import operations, traffic

WHOLE, ROWS = PartitionSpec(), PartitionSpec(AXIS)


def traced(function, *shapes, mesh=None, rows=ROWS):
    mesh = mesh or make_mesh(8)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=rows, out_specs=WHOLE, check_vma=False)
    return jax.jit(mapped).trace(*(jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes))


def counted(*arguments, **options):
    return traffic(traced(*arguments, **options).lower().compile().as_text())


def test_collectives_are_counted_with_what_they_carry():
    def one(x):
        return lax.psum((x, x[:, 0]), AXIS)

    def two(x):
        return lax.psum(jnp.tanh(lax.psum(x, AXIS)) * x, AXIS)

    def other(x):
        return lax.psum(lax.all_gather(x, AXIS), AXIS)

    sent = counted(one, (8, 5))
    assert (sent.collectives, sent.bytes) == ({"all-reduce": 1}, 24)
    sent = counted(two, (8, 5))
    assert (sent.collectives, sent.bytes) == ({"all-reduce": 2}, 40)
    assert counted(other, (8, 5)).collectives == {"all-gather": 1, "all-reduce": 1}


def test_gathered_and_scattered_arrays_count_whole():
    def gathered(x):
        return lax.all_gather(x, AXIS).sum()

    def scattered(x):
        return lax.psum_scatter(x, AXIS, scatter_dimension=1, tiled=True)

    assert counted(gathered, (8, 5)).by_kind == [("all-gather", 8, 1, 8 * 5 * 4)]
    assert counted(scattered, (8, 16)).by_kind == [("reduce-scatter", 8, 1, 16 * 4)]


@pytest.mark.parametrize(("axis", "group"), [("b", (0, 1, 2, 3)), ("a", (0, 4))])
def test_the_devices_that_take_part(axis, group):
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
    rows = PartitionSpec(("a", "b"))
    (one,) = counted(lambda x: lax.psum(x, axis), (8, 5), mesh=mesh, rows=rows).items
    assert one.group == group


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("{{0,4},{1,5},{2,6},{3,7}}", (0, 4)),
        ("[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("mesh['a'=2,'b'=4] {'a'}", (0, 4)),
        ("mesh['a'=2,'b'=4] {'a','b'}", tuple(range(8))),
        ("{}", tuple(range(8))),
    ],
)
def test_each_way_in_which_xla_writes_them(text, group):
    program = f"""HloModule m, num_partitions=8
ENTRY %main (x: f32[5]) -> f32[5] {{
  ROOT %y = f32[5]{{0}} all-reduce(%x), channel_id=1, replica_groups={text}, to_apply=%add
}}"""
    (one,) = traffic(program).items
    assert one.group == group


def test_a_way_that_is_not_known_is_said():
    program = "ENTRY %m (x: f32[5]) -> f32[5] {\n %y = f32[5] all-reduce(%x), replica_groups=new(8)"
    with pytest.raises(UnavailableError, match=r"cannot read: replica_groups=new\(8\)"):
        traffic(program)


def steps(turns):
    """Two steps of a dispatch; each has a loop of so many turns, in which arrays are added up."""

    def layer(x, _):
        return jnp.tanh(lax.psum(x @ jnp.ones((8, 8)), AXIS)), None

    def step(x, _):
        return lax.scan(layer, x, None, length=turns)[0], None

    return lambda x: lax.scan(step, x, None, length=2)[0]


def test_a_loop_within_a_step_counts_as_often_as_it_turns():
    sent = counted(steps(5), (8, 8))
    assert sent.by_kind == [("all-reduce", 8, 5, 5 * 8 * 4)]
    assert operations(traced(steps(5), (8, 8)).jaxpr.jaxpr) == 5 * 2 * 8 * 8


def test_operations_are_those_that_xla_counts_where_there_is_no_loop():
    def loss(kernels, x):
        for kernel in kernels[:2]:
            x = lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        return (x.reshape(len(x), -1) @ kernels[2]).sum()

    shapes = [(3, 3, 8, 16), (3, 3, 16, 16), (8 * 8 * 16, 32)]
    kernels = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    program = jax.jit(jax.grad(loss)).trace(kernels, jax.ShapeDtypeStruct((4, 8, 8, 8), np.float32))
    # XLA counts no products with the zeros around an image.
    by_xla = program.lower().compile().cost_analysis()["flops"]
    assert operations(program.jaxpr.jaxpr) == pytest.approx(by_xla, rel=0.3)
