"""What a compiled program costs each chip: memory, arithmetic and communication, read from XLA without running it.

devices = topology_devices("v5e:16x16")                      256 chips that need not be there
compiled = jax.jit(step, ...).lower(...).compile()           sharded over a mesh of them
print(render(report(compiled, chip="v5e", num_chips=256)))
"""

import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

import jax

HBM = {"v4": 32 * 2**30, "v5e": 16 * 2**30, "v5p": 95 * 2**30, "v6e": 32 * 2**30}  # bytes of memory a chip
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
ROWS = 16  # collectives that `render` writes out

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_COLLECTIVE = re.compile(rf"^\s+(?:ROOT )?%?[\w.-]+ = ([^%\"]+?) (?:ragged-)?({'|'.join(KINDS)})(-start)?\(")
_CALLED = re.compile(r"(body|condition|calls|to_apply|\w+_computations?)=(?:%?([\w.-]+)|\{([^}]*)\})")
_ARRAY = re.compile(r"\b(pred|token|opaque|[a-z]+(\d+)\w*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One communication of the program; equal ones are one record."""

    kind: str  # one of KINDS
    op_name: str  # where in the traced program it comes from
    shape: str  # of the result on one chip, as XLA writes it, without layouts
    bytes: int  # of the whole array a chip sends, receives or reduces, each time: the operand of a reduce-scatter
    group_size: int  # chips that take part together; the senders, for a collective-permute
    count: int  # how many of these the program holds
    in_loop: bool
    trips: int | None  # times that each is executed: 1 outside of loops; None in a loop of unknown length

    @property
    def total(self) -> int:
        """Bytes over the whole program; loops of unknown length count once."""
        return self.bytes * self.count * (self.trips or 1)


class Report(NamedTuple):
    """A program's needs, in bytes and operations of one chip."""

    chip: str
    num_chips: int
    arguments: int
    outputs: int
    aliased: int  # of the outputs: what reuses a donated argument's memory
    temporaries: int
    code: int
    flops: float  # XLA counts a loop's body once
    bytes_accessed: float  # the same
    collectives: tuple[Collective, ...]  # the largest total first

    @property
    def total(self) -> int:
        """Memory that the program needs at its peak, at most."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code

    @property
    def capacity(self) -> int:
        """Memory of the chip."""
        return HBM[self.chip]

    @property
    def fits(self) -> bool:
        """Whether one is no more than the other."""
        return self.total <= self.capacity


def report(compiled: Any, *, chip: str, num_chips: int) -> Report:
    """Read a compiled program.

    Args:
        compiled: what `jax.jit(...).lower(...).compile()` gives, for any platform.
        chip: whose memory it should fit; a key of `HBM`.
        num_chips: over how many it is sharded.

    Raises:
        ValueError: unknown chip, or `num_chips` below 1.
    """
    _check_chip(chip)
    if num_chips < 1:
        raise ValueError(f"num_chips must be at least 1, got {num_chips}.")
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return Report(
        chip=chip,
        num_chips=num_chips,
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        flops=cost.get("flops", math.nan),
        bytes_accessed=cost.get("bytes accessed", math.nan),
        collectives=collectives(compiled.as_text(), num_chips=num_chips),
    )


def does_not_fit(error: Exception) -> str | None:
    """One sentence, where `error` is the TPU compiler's refusal of a program larger than the chip; None otherwise.

    That compiler stops before there is a program to report on.
    """
    found = re.search(r"memory required.*?\(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)", str(error))
    if found is None:
        return "does not fit: out of memory at compile time" if "CompileTimeHbmOom" in str(error) else None
    return f"does not fit: it needs {found[1]} of memory, and the chip has {found[2]} to give"


# ------------------------------------------------------------------------------------------------------------ topology


def topology_devices(spec: str) -> list[Any]:
    """The devices of a TPU topology that is not there, to compile for.

    Args:
        spec: `chip:shape`, such as "v5e:16x16" or "v4:4x4x8".

    Raises:
        ValueError: malformed spec, unknown chip, a shape that the chip does not come in, or no libtpu installed.
    """
    if not re.fullmatch(r"\w+:[1-9]\d*(x[1-9]\d*){1,2}", spec):
        raise ValueError(f'topology must be chip:shape, such as "v5e:16x16" or "v4:4x4x8"; got {spec!r}.')
    _check_chip(spec.split(":")[0])
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f'topology {spec!r} needs the TPU compiler, libtpu: pip install -e ".[tpu-aot]" in the checkout.'
        )
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # or libtpu asks a metadata server which TPU this machine is
    from jax.experimental import topologies

    # A v4 chip's two cores are one device with one memory, as where JAX runs on it; the other chips default to that.
    cores = {"chip_config_name": "megacore"} if spec.startswith("v4:") else {}
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=spec, **cores).devices)
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"topology {spec!r} is none that libtpu knows: {error}") from error


def _check_chip(chip: str) -> None:
    if chip not in HBM:
        raise ValueError(f"chip must be one of {', '.join(HBM)}; got {chip!r}.")


# --------------------------------------------------------------------------------------------------------- collectives


def collectives(hlo: str, *, num_chips: int) -> tuple[Collective, ...]:
    """The collectives of an optimised HLO module in text, the largest total first; a -start and its -done are one."""
    computations = _computations(hlo)
    trips = _trips(computations)
    found: dict[Collective, int] = {}  # the record of one -> how many there are
    for name, lines in computations.items():
        for line in lines:
            match = _COLLECTIVE.match(line)
            if match is None or name not in trips:  # a computation that nothing calls is never executed
                continue
            result, kind, start = match.groups()
            if start and (kind != "all-reduce" or result.startswith("((")):
                result = _elements(result)[1]  # (operands, results, context); all-reduce-start has the results alone
            size = _group_size(line, num_chips)
            whole = _bytes(result) * (size if kind == "reduce-scatter" else 1)
            op = re.search(r'op_name="([^"]*)"', line)
            one = Collective(kind, op[1] if op else "", _plain(result), whole, size, 1, *trips[name])
            found[one] = found.get(one, 0) + 1
    records = [one._replace(count=count) for one, count in found.items()]
    return tuple(sorted(records, key=lambda record: -record.total))


def _computations(hlo: str) -> dict[str, list[str]]:
    """Name -> instructions, of each computation of a module; the entry is the last."""
    computations: dict[str, list[str]] = {}
    entry, current = "", []
    for line in hlo.splitlines():
        header = _COMPUTATION.match(line)
        if header is not None:
            current = computations[header[2]] = []
            entry = header[2] if header[1] else entry
        elif line.startswith(" "):
            current.append(line)
    return {**computations, entry: computations.pop(entry)}


def _trips(computations: dict[str, list[str]]) -> dict[str, tuple[bool, int | None]]:
    """Name -> (is it in a loop, how many times an instruction there is executed), of what the entry reaches."""
    entry = list(computations)[-1]
    trips: dict[str, tuple[bool, int | None]] = {entry: (False, 1)}
    pending = [entry]
    while pending:
        name = pending.pop()
        in_loop, times = trips[name]
        for line in computations[name]:
            called = [(role, one or many) for role, one, many in _CALLED.findall(line)]
            length = _loop_length(line, dict(called), computations) if " while(" in line else 1
            each = times * length if times is not None and length is not None else None
            for callee in re.findall(r"[\w.-]+", " ".join(names for _, names in called)):
                if callee in computations and callee not in trips:  # XLA calls a computation with collectives once
                    trips[callee] = (in_loop or " while(" in line, each)
                    pending.append(callee)
    return trips


def _loop_length(line: str, called: dict[str, str], computations: dict[str, list[str]]) -> int | None:
    """XLA's own count where it prints one; else the bound of the counter, which scan and fori_loop start at 0."""
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
    if known is not None:
        return int(known[1])
    condition = "\n".join(computations.get(called.get("condition", ""), []))
    bounds = re.findall(r"= [su]32\[\]\S* constant\((\d+)\)", condition)
    return int(bounds[0]) if len(bounds) == 1 and condition.count("direction=LT") == 1 else None


def _group_size(line: str, num_chips: int) -> int:
    """Chips of one group, from each way XLA writes them: lists, iota tiles `[groups,size]<=…`, axes of a mesh."""
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", line)
    if pairs is not None:
        return pairs[1].count("{")
    mesh = re.search(r"replica_groups=@?mesh\w*\[([^\]]*)\][^{]*\{([^}]*)\}", line)
    if mesh is not None:
        sizes = dict(re.findall(r"'?([\w.]+)'?=(\d+)", mesh[1]))
        axes = re.findall(r"'?([A-Za-z_][\w.]*)'?(?::\(\d+\)(\d+))?", mesh[2])  # 'axis':(pre)size is a part of an axis
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    tiles = re.search(r"replica_groups=\[\d+,(\d+)\]<=", line)
    if tiles is not None:
        return int(tiles[1])
    first = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
    return len(first[1].split(",")) if first is not None and first[1] else num_chips


def _elements(tuple_type: str) -> list[str]:
    """The top-level elements of a tuple type; commas also stand inside brackets of each kind."""
    elements, depth, start = [], 0, 1
    for index, character in enumerate(tuple_type):
        depth += (character in "([{") - (character in ")]}")
        if (character == "," and depth == 1) or (character == ")" and depth == 0):
            elements.append(tuple_type[start:index])
            start = index + 1
    return elements


def _bytes(result: str) -> int:
    """Bytes of an array type or of all arrays of a tuple; types of less than a byte are packed."""
    total = 0
    for name, bits, shape in _ARRAY.findall(result):
        elements = math.prod(int(size) for size in shape.split(",") if size)
        total += math.ceil(elements * (8 if name == "pred" else int(bits or 0)) / 8)
    return total


def _plain(result: str) -> str:
    """`f32[8,64]`, or several of them."""
    return ", ".join(f"{name}[{shape}]" for name, _, shape in _ARRAY.findall(result))


# -------------------------------------------------------------------------------------------------------------- render


def render(report: Report) -> str:
    """The report as text: memory and whether it fits, arithmetic, then the largest collectives."""
    verdict = "fits" if report.fits else "does NOT fit"
    lines = [
        f"each of {report.num_chips} {report.chip} chips:",
        f"  arguments    {_size(report.arguments):>10}",
        f"  temporaries  {_size(report.temporaries):>10}",
        f"  outputs      {_size(report.outputs):>10}, of which {_size(report.aliased)} reuse the arguments",
        f"  program      {_size(report.code):>10}",
        f"  together     {_size(report.total):>10} of {_size(report.capacity)} "
        f"({report.total / report.capacity:.1%}): {verdict}",
        f"  arithmetic   {report.flops:>10.3g} FLOPs, {report.bytes_accessed:.3g} bytes accessed; "
        "XLA counts the body of a loop once",
    ]
    if not report.collectives:
        return "\n".join([*lines, "no collectives"])
    lines += [
        "collectives, the largest first:",
        f"  {'kind':<18} {'times':>7} {'bytes each':>11} {'chips':>5}  shape, from",
    ]
    for one in report.collectives[:ROWS]:
        times = f"{one.count * (one.trips or 1)}" + ("+" if one.trips is None else "")
        shape = one.shape if len(one.shape) <= 48 else one.shape[:45] + "…"
        lines.append(
            f"  {one.kind:<18} {times:>7} {_size(one.bytes):>11} {one.group_size:>5}  {shape}"
            f"{' in a loop' if one.in_loop else ''}, {_tail(one.op_name)}"
        )
    rest = report.collectives[ROWS:]
    if rest:
        lines.append(f"  and {sum(one.count for one in rest)} more, {_size(sum(one.total for one in rest))} together")
    if any(one.trips is None for one in report.collectives):
        lines.append("  +: in a loop whose length XLA does not print")
    return "\n".join(lines)


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def _tail(op_name: str) -> str:
    """The end of an operation's path, which says what it is."""
    parts = [part for part in op_name.split("/") if part not in ("while", "body", "closed_call", "checkpoint")]
    return "/".join(parts[-2:]) or "inserted by XLA"
