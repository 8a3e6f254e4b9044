"""The report on a compiled program: collectives read from HLO, memory, topologies.

The TPU compiler runs in a process of its own, so that an installed libtpu never slows the other tests.
"""

import functools
import importlib.util
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lemmata.train.engine import aot_report

LAYERS, WIDTH, ROWS = 6, 64, 32


@functools.cache
def scanned_step():
    """Gradient of a scan over layers whose weights are gathered, on 4 x 2 devices."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    split = functools.partial(NamedSharding, mesh)

    def loss(weights, x):
        x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)
        return x.mean()

    weights = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32, sharding=split(P(None, "data")))
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32, sharding=split(P("data")))

    def step(weights, x):
        value, gradient = jax.value_and_grad(loss)(weights, x)
        return weights - gradient, value

    return jax.jit(step, donate_argnums=0, out_shardings=(weights.sharding, split(P()))).lower(weights, x).compile()


def test_memory_is_per_chip():
    found = aot_report.report(scanned_step(), chip="v5e", num_chips=8)
    shard = LAYERS * WIDTH * WIDTH * 4 // 4
    assert found.arguments == shard + ROWS * WIDTH * 4 // 4
    assert shard <= found.outputs <= shard + 64
    assert found.aliased == shard  # the weights are donated
    assert found.total == found.arguments + found.outputs - found.aliased + found.temporaries + found.code
    assert found.fits
    assert found.flops > 0
    assert not found._replace(temporaries=17 * 2**30).fits


def test_collectives_in_a_loop_carry_its_length():
    found = aot_report.report(scanned_step(), chip="v5e", num_chips=8).collectives
    gathers = [one for one in found if one.kind == "all-gather"]
    assert sum(one.count for one in gathers) == 2  # forward and backward
    for one in gathers:
        assert (one.bytes, one.group_size, one.in_loop, one.trips) == (WIDTH * WIDTH * 4, 4, True, LAYERS)
        assert one.total == WIDTH * WIDTH * 4 * LAYERS * one.count
        assert "dot_general" in one.op_name
    (scalar,) = (one for one in found if one.shape == "f32[]")
    assert (scalar.kind, scalar.bytes, scalar.in_loop, scalar.trips) == ("all-reduce", 4, False, 1)
    assert [one.total for one in found] == sorted((one.total for one in found), reverse=True)


def test_unsharded_program_has_none():
    compiled = jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((8, 8), jnp.float32)).compile()
    found = aot_report.report(compiled, chip="v4", num_chips=1)
    assert found.collectives == ()
    assert "no collectives" in aot_report.render(found)


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("all-reduce", lambda x: jax.lax.psum(x, "i")),
        ("all-gather", lambda x: jax.lax.all_gather(x, "i")),
        ("reduce-scatter", lambda x: jax.lax.psum_scatter(x, "i")),
        ("all-to-all", lambda x: jax.lax.all_to_all(x, "i", 0, 0)),
        ("collective-permute", lambda x: jax.lax.ppermute(x, "i", [(j, (j + 1) % 8) for j in range(8)])),
    ],
)
def test_each_kind_is_found_once(kind, function):
    mesh = jax.make_mesh((8,), ("i",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=P("i"), out_specs=P("i"), check_vma=False)
    compiled = jax.jit(mapped).lower(jax.ShapeDtypeStruct((64, 3), jnp.bfloat16)).compile()
    (one,) = aot_report.collectives(compiled.as_text(), num_chips=8)
    assert (one.kind, one.count, one.group_size, one.in_loop, one.trips) == (kind, 1, 8, False, 1)
    width = int(re.search(r"[a-z](\d+)\[", one.shape)[1]) // 8  # a CPU reduces bfloat16 in float32
    assert one.bytes == 8 * 3 * width * (8 if kind == "all-gather" else 1)


MODULE = """HloModule module, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {{
  ROOT %sum = f32[] add(%a, %b)
}}

%unused (p: f32[4]) -> f32[4] {{
  ROOT %all-reduce.9 = f32[4]{{0}} all-reduce(%p), replica_groups={{}}, to_apply=%add
}}

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {{
  %all-reduce.1 = f32[4]{{0}} all-reduce(%x), replica_groups={{{{0,1}},{{2,3}}}}, to_apply=%add
}}

%condition (p: (s32[], f32[4])) -> pred[] {{
{condition}
}}

ENTRY %main (x: f32[4]) -> f32[4] {{
  %while.1 = (s32[], f32[4]{{0}}) while(%tuple), condition=%condition, body=%body
{line}
}}
"""
COUNTED = """  %limit = s32[]{:T(128)} constant(7)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT"""


def parse(line="", condition="  ROOT %p = pred[] parameter(0)"):
    return aot_report.collectives(MODULE.format(line=line, condition=condition), num_chips=16)


def test_loop_of_unknown_length_says_so_and_unused_computations_do_not_count():
    (one,) = parse()
    assert (one.in_loop, one.trips, one.total, one.group_size) == (True, None, 16, 2)


def test_loop_length_is_read_from_its_condition():
    (one,) = parse(condition=COUNTED)
    assert (one.in_loop, one.trips, one.total) == (True, 7, 7 * 16)


LINES = {  # an instruction -> kind, bytes, group size
    "%r = (bf16[8,2]{1,0:T(8,128)(2,1)}, /*index=1*/s8[6]{0}) all-reduce(%a, %b), replica_groups=[4,4]<=[2,8]T(1,0)": (
        ("all-reduce", 38, 4)
    ),
    "%s = (f32[2,3]{1,0}, f32[16,3]{1,0:T(8,128)S(1)}) all-gather-start(%a), replica_groups=[2,8]<=[16]": (
        ("all-gather", 192, 8)
    ),
    "%s = ((f32[2]{0}, f8e4m3fn[2]{0}), (f32[4]{0}, f8e4m3fn[4]{0})) all-gather-start(%a, %b), replica_groups={}": (
        ("all-gather", 20, 16)
    ),
    "%s = (u32[5]{0}, u32[5]{0}, u32[]) collective-permute-start(%a), source_target_pairs={{0,1},{1,2},{2,0}}": (
        ("collective-permute", 20, 3)
    ),
    "%s = f64[3]{0} all-reduce-start(%a), replica_groups={{0,1,2,3}}": ("all-reduce", 24, 4),
    "%s = ((f32[64]{0}), f32[8]{0}, u32[]) reduce-scatter-start(%a), replica_groups=mesh['x'=2,'y'=8] {'y'}": (
        ("reduce-scatter", 256, 8)
    ),
    "%r = s4[9]{0} all-to-all(%a), replica_groups=mesh['x'=4,'y'=4] {'x','y':(2)2}": ("all-to-all", 5, 8),
    "%r = pred[7]{0} all-gather(%a), replica_groups={{0},{1}}": ("all-gather", 7, 1),
}


@pytest.mark.parametrize(("line", "expected"), LINES.items())
def test_every_way_of_writing_one(line, expected):
    done = f"\n  %d = f32[4]{{0}} {expected[0]}-done(%s)" if "-start(" in line else ""
    found = [one for one in parse(f"  {line}{done}") if not one.in_loop]
    assert [(one.kind, one.bytes, one.group_size) for one in found] == [expected]


def test_render_says_what_counts():
    found = aot_report.report(scanned_step(), chip="v6e", num_chips=8)
    text = aot_report.render(found)
    assert "each of 8 v6e chips" in text
    assert "32.0 GiB" in text
    assert re.search(r"together .*: fits", text)
    assert re.search(r"all-gather +6 +16\.0 KiB +4  f32\[64,64\] in a loop, transpose\(jvp\(\)\)/dot_general", text)
    assert "does NOT fit" in aot_report.render(found._replace(arguments=2**40))
    unknown = found.collectives[0]._replace(trips=None)
    many = found._replace(collectives=(unknown,) * 20)
    assert re.search(r"1\+ ", aot_report.render(many))
    assert "and 4 more, 64.0 KiB together" in aot_report.render(many)


def test_compiler_running_out_of_memory_is_explained():
    error = RuntimeError(
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (72.17G) exceeds available HBM (15.75G). HLO module: jit_step."
    )
    explained = aot_report.does_not_fit(error)
    assert explained is not None
    assert "72.17G" in explained
    assert "15.75G" in explained
    assert aot_report.does_not_fit(RuntimeError("something else")) is None


@pytest.mark.parametrize("bad", ["v5e", "v5e:", "v5e:16", "16x16", "v5e:0x4", "v5e:4,4", "v5e:2x2x2x2"])
def test_malformed_topology_shows_the_form(bad):
    with pytest.raises(ValueError, match=r"chip:shape.*" + re.escape(repr(bad))):
        aot_report.topology_devices(bad)


def test_unknown_chip_lists_the_known():
    with pytest.raises(ValueError, match=r"chip must be one of v4, v5e, v5p, v6e; got 'v99'"):
        aot_report.topology_devices("v99:2x2")
    with pytest.raises(ValueError, match="chip must be one of"):
        aot_report.report(None, chip="h100", num_chips=1)
    with pytest.raises(ValueError, match="num_chips"):
        aot_report.report(None, chip="v4", num_chips=0)


def test_missing_libtpu_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install -e "\.\[tpu-aot\]" in the checkout'):
        aot_report.topology_devices("v5e:16x16")


TPU = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from lemmata.train.engine import aot_report

assert len(aot_report.topology_devices("v4:2x2x2")) == 8  # chips, not cores
try:
    aot_report.topology_devices("v5e:3x5")
except ValueError as error:
    print("refused:", error)

devices = aot_report.topology_devices("v5e:4x4")
mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
def step(w, x):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        value, gradient = jax.value_and_grad(lambda w: jnp.mean((x @ w) ** 2))(w)
    return w - gradient, value
w = jax.ShapeDtypeStruct((1024, 1024), jnp.float32, sharding=NamedSharding(mesh, P("data")))
def compile_for(rows):
    x = jax.ShapeDtypeStruct((rows, 1024), jnp.float32, sharding=NamedSharding(mesh, P("data")))
    return jax.jit(step, donate_argnums=0, out_shardings=(w.sharding, None)).lower(w, x).compile()
print(aot_report.render(aot_report.report(compile_for(256), chip="v5e", num_chips=16)))
try:
    compile_for(2**28)
except Exception as error:
    print(aot_report.does_not_fit(error))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra tpu-aot)")
def test_tpu_program_is_compiled_and_reported():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", TPU], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "refused: topology 'v5e:3x5' is none that libtpu knows" in done.stdout
    assert "each of 16 v5e chips" in done.stdout
    sizes = dict(re.findall(r"^  (arguments) +([\d.]+) KiB", done.stdout, re.M))
    np.testing.assert_allclose(
        float(sizes["arguments"]), 1024 * 1024 * 4 / 16 / 1024 + 256 * 1024 * 4 / 16 / 1024, rtol=0.01
    )
    assert "collectives, the largest first" in done.stdout
    assert re.search("does not fit: .*G", done.stdout)
