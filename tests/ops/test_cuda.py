"""The CUDA C++ kernels match the reference bit for bit, on a GPU or compiled for the host."""

import importlib.util
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import agreement
import exotic
import pytest
import torch
from agreement import (
    CONTENTS,
    DTYPES,
    FORMS,
    LOG_M,
    ROW_KINDS,
    ROWS,
    SIZES,
    assert_same,
    logits,
    mover,
    noise,
    pairwise,
    place_out,
    poisoned_out,
    unmoved,
)
from op_cases import uncompared

from drs_fast import Compacted, Rng, backend, ops
from drs_fast.backends import cuda
from drs_fast.core import compacted

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "csrc" / "cuda"
ON_GPU = torch.cuda.is_available() and cuda.refuses(torch.device("cuda")) is None
DEVICE = "cuda" if ON_GPU else "cpu"
RNG = Rng(2**64 - 3, 2**32 - 7)
moved = mover(DEVICE)


def built(*arguments):
    if shutil.which("g++") is None:
        pytest.skip("needs g++, or a GPU")
    subprocess.run(
        ["g++", "-std=c++20", "-O1", "-ffp-contract=off", "-fPIC", "-w",
         "-fvisibility=hidden", "-fno-gnu-unique",  # so that several can be loaded
         *map(str, arguments)],
        check=True,
    )  # fmt: skip


def compiled(source, folder, *flags):
    made = folder / f"{source.stem}.o"
    includes = (f"-I{path}" for path in (ROOT / "tests" / "common" / "emulator", source.parent))
    built(*flags, *includes, "-c", "-x", "c++", source, "-o", made)
    return made


def linked(objects, folder, name="_cuda"):
    """A module of this name. Of a function that several objects define, the first counts."""
    made = folder / f"{name}.so"
    start = [] if name == "_cuda" else [f"-Wl,--defsym=PyInit_{name}=PyInit__cuda"]
    built("-shared", *start, *objects, "-o", made)
    spec = importlib.util.spec_from_file_location(name, made)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """The CUDA sources compiled for the host, by name."""
    folder = tmp_path_factory.mktemp("objects")
    python = [sys.executable, "-m", "pybind11", "--includes"]
    flags = subprocess.run(python, capture_output=True, text=True, check=True).stdout.split()
    made = {"module.cpp": compiled(SOURCES / "module.cpp", folder, *flags)}
    return made | {path.name: compiled(path, folder) for path in sorted(SOURCES.glob("*.cu"))}


@pytest.fixture(scope="module", autouse=True)
def kernels(tmp_path_factory, request):
    """The `cuda` backend, run on the host if there is no GPU."""
    with pytest.MonkeyPatch.context() as patch:
        if not ON_GPU:
            objects = request.getfixturevalue("objects")
            emulation = linked(objects.values(), tmp_path_factory.mktemp("emulation"))
            patch.setattr(cuda, "_cuda", emulation)
            patch.setattr(cuda, "refuses", lambda device: None)
            patch.setattr(cuda, "_where", lambda tensor: (0, 0))
        ops.dispatch._dispatch.cache_clear()
        yield
    ops.dispatch._dispatch.cache_clear()


def assert_backends_agree(call):
    return agreement.assert_backends_agree(call, "cuda", moved)


def test_every_op_equals_the_reference(monkeypatch, fresh_dispatch):
    assert uncompared(monkeypatch, "cuda", cuda, moved) == []


@pytest.mark.parametrize(("seed", "row"), [(0, 0), (2**64 - 5, 2**32 - 7), (2**63, 2**62)])
@pytest.mark.parametrize("n", [0, 1, 300])
def test_random_numbers(seed, row, n):
    rng, ids = Rng(seed, row), torch.arange(n) * 2**33 + 5
    calls = [
        lambda to, d=d: ops.normal(rng, n, d, device=to(ids).device) for d in (0, 1, 4, 7, 131)
    ]
    calls += [
        lambda to: ops.uniform(rng, n, stream=2**32 - 1, draw=7, device=to(ids).device),
        lambda to: ops.uniform(rng, n, stream=1, device=to(ids).device, ids=to(ids)),
        lambda to: ops.words(rng, n, 9, draw=3, device=to(ids).device, ids=to(ids)),
    ]
    for call in calls:
        assert_backends_agree(call)


def parameter(form, value, n, seed):
    if form == "per row":
        return value + noise(n, seed=seed).abs().double()
    return torch.tensor(value, dtype=torch.float64) if form == "0-d" else value


@pytest.mark.parametrize(
    ("n", "dtype", "content", "row", "strided", "log_m", "gamma", "has_ids"),
    pairwise(SIZES, DTYPES, CONTENTS, ROWS, (False, True), FORMS, FORMS, (False, True)),
)
def test_decisions(n, dtype, content, row, strided, log_m, gamma, has_ids):
    logit, rng = logits(n, dtype, content, strided), Rng(2**64 - 3, row)
    given = {
        "log_m": parameter(log_m, LOG_M, n, 1),
        "gamma": parameter(gamma, -0.5, n, 2),
    }
    ids = torch.randperm(n, generator=torch.Generator().manual_seed(n)) + row if has_ids else None
    rows = (noise(n, 5), noise(n, 3).bfloat16(), torch.arange(n))

    def arguments(to):
        return {name: to(value) for name, value in given.items()}

    assert_backends_agree(lambda to: ops.accept(to(logit), rng, ids=to(ids), **arguments(to)))
    assert_backends_agree(lambda to: ops.probability(to(logit), **arguments(to)))
    assert_backends_agree(lambda to: ops.weight(to(logit), **arguments(to)))
    for capacity in (n, n // 9):
        out = poisoned_out(capacity, logit, rows)
        assert_backends_agree(
            lambda to, out=out: ops.accept_compact(
                to(logit), *map(to, rows), rng=rng, ids=to(ids), out=place_out(to, clone(out)),
                **arguments(to),
            )
        )  # fmt: skip
    for d in (0, 6, 140):
        out = poisoned_out(n, logit, (noise(n, d),))
        assert_backends_agree(
            lambda to, d=d, out=out: ops.accept_latents(
                to(logit), d, rng=rng, ids=to(ids), out=place_out(to, clone(out)), **arguments(to)
            )
        )


def clone(out):
    return Compacted(
        tuple(row.clone() for row in out.rows), *(t.clone() for t in list(vars(out).values())[1:])
    )


def test_rows_of_every_kind():
    n = 1100
    logit, kinds = logits(n), list(ROW_KINDS.values())
    odd = [noise(n * 5 + 1)[1:].view(n, 5), torch.arange(n * 7, dtype=torch.uint8).view(n, 7)]
    odd += [noise(n, width) for width in (2, 31, 33, 700)]
    for chosen in (kinds[:8], kinds[8:], odd):
        rows = [make(n) if callable(make) else make for make in chosen]

        def call(to, rows=rows):
            made = ops.accept_compact(to(logit), *map(to, rows), rng=Rng(1), log_m=LOG_M)
            count = int(made.count)
            kept = (row[:count].contiguous() for row in (*made.rows, made.ids, made.logit))
            return Compacted(tuple(kept), *(made.count,) * 5)

        assert_backends_agree(call)


def check_rings():
    batches = (1500, 1024, 3, 0, 1025, 1500) * 3

    def call(to):
        x = to(noise(1500, 3))
        ring = ops.ring(
            to(logits(1500)), x, rng=Rng(7, 2**32 - 2000), capacity=2048, log_m=LOG_M, limit=2500
        )
        for tensor in (*ring.rows, ring.ids, ring.logit):
            tensor.fill_(77)
        ring.workspace[2] = 2**30 - 2  # the epoch starts again on the way
        for i, n in enumerate(batches):
            logit = to(logits(1500, content="nan")[i % 7 :][:n])
            ops.accept_append(logit, x[: len(logit)], ring=ring, gamma=-1.0)
        return ring

    ring = assert_backends_agree(call)
    assert int(ring.cursor) == 2500


def check_appending():
    """What `appending` returns, with batches of all sizes, rows of no bytes, and moved memory."""

    def call(to):
        logit = to(logits(1500))
        rows = to(noise(1500, 3)), to(torch.empty(1500, 0)), to(noise(1500, 5).half())
        ring, other = (
            ops.ring(logit, *rows, rng=RNG, capacity=2048, log_m=LOG_M) for _ in range(2)
        )
        for tensor in (*ring.rows, ring.ids, ring.logit, *other.rows, other.ids, other.logit):
            tensor.zero_()
        append = ops.appending(ring, gamma=-1.0)
        for i, n in enumerate((1500, 0, 1, 700, 700)):
            if i == 3:
                for to_move, there in zip(ring.tensors(), other.tensors(), strict=True):
                    to_move.set_(there.copy_(to_move))
            first = i % 2  # so that rows start at other alignments
            append(logit[first : first + n], *[row[first : first + n] for row in rows])
        return ring

    assert int(assert_backends_agree(call).cursor) > 0


def test_what_appending_returns():
    check_appending()


def test_appending_refuses_what_has_no_memory():
    ring = ops.ring(moved(logits(8)), rng=RNG, capacity=8, log_m=LOG_M)
    with backend("cuda"):
        append = ops.appending(ring)
    with pytest.raises(ValueError, match="without memory"):
        append(torch._efficientzerotensor(8, device=DEVICE))


def test_rings_move_on():
    check_rings()


def check_compacted():
    logit, rows = logits(2100, content="nan"), (noise(2100, 33),)

    def call(to):
        out = place_out(to, poisoned_out(700, logit, rows))
        return ops.accept_compact(to(logit), *map(to, rows), rng=RNG, log_m=LOG_M, out=out)

    assert_backends_agree(call)


WIDE_ROWS = {  # rows, bytes of each, blocks of a launch
    "an image of 196 KB": (40, 196_608, 64),
    "a megabyte": (5, 2**20, 33),
    "a megabyte less two bytes": (3, 2**20 - 2, 16),
    "an odd kilobyte": (700, 1023, 19),
    "one row": (1, 70_000, 7),
}


@contextmanager
def at_most(blocks):
    """A launch has this many blocks if its bytes are worth it."""
    before, compacted.BLOCKS = compacted.BLOCKS, blocks
    try:
        yield
    finally:
        compacted.BLOCKS = before


def check_wide_rows(name="an image of 196 KB"):
    n, width, blocks = WIDE_ROWS[name]
    logit = logits(n, content="nan")
    rows = noise(n, 5), torch.arange(n * width).view(n, width).to(torch.uint8)

    def call(to):
        out = place_out(to, poisoned_out(n, logit, rows))
        return ops.accept_compact(to(logit), *map(to, rows), rng=RNG, log_m=-2.0, out=out)

    with at_most(blocks):
        assert compacted.tiling(n, width + 20)[1] > 1
        assert_backends_agree(call)


@pytest.mark.parametrize("name", WIDE_ROWS)
def test_wide_rows_are_shared_between_blocks(name):
    check_wide_rows(name)


def check_a_ring_of_images(sizes=(11, 7, 12, 12), width=35_003):
    """The ring wraps round, and is full within the last batch."""

    def call(to):
        images = torch.arange(12 * width).view(12, width).to(torch.uint8)
        ring = ops.ring(
            to(logits(12)), to(images), to(noise(12, 5)),
            rng=RNG, capacity=16, log_m=LOG_M, limit=20,
        )  # fmt: skip
        for tensor in (*ring.rows, ring.ids, ring.logit):
            tensor.fill_(77)
        for n in sizes:
            rows = images[-n:], noise(n, 5, seed=n)
            ops.accept_append(to(logits(n)), *map(to, rows), ring=ring, gamma=-3.0)
        return ring

    with at_most(7):
        assert all(compacted.tiling(n, width + 20)[1] == 7 for n in sizes)
        assert int(assert_backends_agree(call).cursor) == 20


def test_a_ring_of_images():
    check_a_ring_of_images()


@pytest.mark.parametrize("d", [3, 4000, 70_001])
def test_wide_latents_are_shared_between_blocks(d):
    logit = logits(19)

    def call(to):
        out = place_out(to, poisoned_out(19, logit, (noise(19, d),)))
        return ops.accept_latents(to(logit), d, rng=RNG, log_m=LOG_M, out=out)

    with at_most(7):
        assert_backends_agree(call)


# The first of them makes tiles of 1,024 rows.
@pytest.mark.parametrize(
    ("few", "parts"), [(0, 1), (compacted.FEW_ROWS, 1), (compacted.FEW_ROWS, 3)]
)
def test_every_tile_height(monkeypatch, few, parts):
    monkeypatch.setattr(compacted, "FEW_ROWS", few)
    monkeypatch.setattr(compacted, "PART_BYTES", 1)
    for n in (1, 255, 256, 257, 1023, 1024, 1025, 3000):
        tile = compacted.tiling(n, 0)[0]
        logit, rows = logits(n, content="nan"), (noise(n, 33),)

        def call(to, n=n, logit=logit, rows=rows):
            out = place_out(to, poisoned_out(n // 2 + 1, logit, rows))
            return ops.accept_compact(to(logit), *map(to, rows), rng=RNG, log_m=LOG_M, out=out)

        with at_most(parts * -(-n // tile)):
            assert compacted.tiling(n, 132) == (256 if few else 1024, parts)
            assert_backends_agree(call)


@pytest.mark.parametrize("n", [70_000, 300_000])
def test_many_rows(n):
    logit = logits(n)

    def call(to):
        out = place_out(to, poisoned_out(n, logit, ()))
        return ops.accept_compact(to(logit), rng=RNG, log_m=LOG_M, out=out)

    assert_backends_agree(call)


def test_a_ring_takes_batches_of_both_tile_heights(monkeypatch):
    monkeypatch.setattr(compacted, "FEW_ROWS", 600)
    check_rings()


def check_probabilities():
    logit = noise(300) * 9.0
    assert_backends_agree(lambda to: ops.probability(to(logit), log_m=30.0, gamma=-40.0))


def check_latents():
    assert_backends_agree(lambda to: ops.normal(RNG, 300, 130, device=to(noise(1)).device))


QUANTILES = (0, 55, 100)


def order_inputs(n, dtype):
    limits, spread = torch.finfo(dtype), noise(n, seed=4)
    yield spread.to(dtype)
    yield torch.where(spread > 1.0, spread.double(), -limits.max).to(dtype)
    yield (spread * 2).round().to(dtype)  # ties, and both zeros
    yield torch.where(spread < 0.5, -torch.inf, spread).to(dtype)
    yield torch.full((n,), -0.0, dtype=dtype)
    yield (spread.double() * limits.smallest_normal).to(dtype)  # subnormal
    yield logits(n, dtype, "nan")
    yield torch.tensor([torch.nan, torch.inf] * n, dtype=dtype)[:n]
    yield torch.cat((spread, spread[:1])).to(dtype)[1:]  # no load of 16 bytes is aligned


@pytest.mark.parametrize(("dtype", "n"), [*zip(DTYPES, (4096, 4097, 1, 5000), strict=True)])
def test_orders(n, dtype):
    for logit in order_inputs(n, dtype):
        assert_backends_agree(lambda to, x=logit: ops.largest(to(x)))
        for q in QUANTILES:
            assert_backends_agree(
                lambda to, x=logit, q=q: ops.quantile_gamma(to(x), q, log_m=0.25, eps=1e-9)
            )


def check_orders():
    logit = logits(5000, content="nan")
    assert_backends_agree(lambda to: ops.largest(to(logit)))
    assert_backends_agree(lambda to: ops.quantile_gamma(to(logit), 55, log_m=2.0))


def test_orders_of_many_logits():
    logit = logits(300_000, content="nan")
    top = torch.tensor(8.0, dtype=torch.float64)
    assert_backends_agree(lambda to: ops.quantile_gamma(to(logit), 55, log_m=to(top)))
    assert_backends_agree(lambda to: ops.quantile_gamma(to(logit[:3]), 55, log_m=to(top)))
    assert_backends_agree(lambda to: ops.largest(to(logit)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_logits_have_no_largest(dtype):
    assert_backends_agree(lambda to: ops.largest(to(torch.empty(0, dtype=dtype))))


MUTANTS = (
    ("quantile.cu", "rank <= before + own[i]", "rank <= before + own[i] - 1", check_orders),
    ("quantile.cu", "place % parts", "0", check_orders),
    ("quantile.cu", "shared_rank = rank - before", "shared_rank = rank", check_orders),
    ("quantile.cu", "valid(values[i]) && values[i] > most", "values[i] > most", check_orders),
    ("compact.cu", "1u << lane <= first", "1u << lane < first", check_compacted),
    ("compact.cu", "out.state[RING_ROW] += n;", "out.state[RING_ROW] += n - 1;", check_rings),
    ("rows.cuh", "first = kept.part * team.rows + team.row", "first = team.row", check_wide_rows),
    ("rows.cuh", "if (piece >= per_row)", "if (piece > per_row)", check_wide_rows),
    ("compact.cu", "if (odd && part == 0 &&", "if (odd &&", check_wide_rows),
    ("rows.cuh", "kept.parts * team.rows", "(kept.parts + 1) * team.rows", check_a_ring_of_images),
    ("rows.cuh", "rows.row + index", "rows.row + index + 1", check_compacted),
    (
        "arithmetic.cuh",
        "return {y + scale,",
        "return {1.0 + (y + (scale - 1.0)),",
        check_probabilities,
    ),
    (
        "arithmetic.cuh",
        "f * f) * (horner(LOG, f) * f - 0.5f)",
        "f * f) * horner(LOG, f)",
        check_latents,
    ),
)


KERNELS = {"rows.cuh": "compact.cu", "arithmetic.cuh": "elementwise.cu"}  # which a check runs


@pytest.mark.skipif(ON_GPU, reason="for the emulation")
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_planted_fault_shows(tmp_path, monkeypatch, objects, mutant):
    file, right, wrong, check = mutant
    for folder in (SOURCES, SOURCES.parent / "shared"):
        shutil.copytree(folder, tmp_path / folder.name)
    source = (tmp_path / "cuda" / file).read_text()
    assert source.count(right) == 1
    (tmp_path / "cuda" / file).write_text(source.replace(right, wrong))
    check()
    kernels = KERNELS.get(file, file)
    others = [made for name, made in objects.items() if name != kernels]
    faulty = compiled(tmp_path / "cuda" / kernels, tmp_path)
    module = linked([faulty, *others], tmp_path, f"_cuda{MUTANTS.index(mutant)}")
    monkeypatch.setattr(cuda, "_cuda", module)
    with pytest.raises(AssertionError):
        check()


def test_cuda_and_triton_share_a_ring():
    pytest.importorskip("triton")
    rings = []
    for names in (("reference",), ("cuda", "triton")):
        to = moved if len(names) == 2 else unmoved
        ring = ops.ring(to(logits(1500)), rng=Rng(3), capacity=8192, log_m=LOG_M)
        for i in range(4):
            with backend(names[i % len(names)]):
                ops.accept_append(to(logits(1500 - 400 * (i % 3))), ring=ring)
        rings.append(ring)
    count = int(rings[0].cursor)
    assert_same(rings[1].state.cpu(), rings[0].state)
    assert_same(rings[1].ids[:count].cpu(), rings[0].ids[:count])


def test_too_many_row_tensors_are_refused():
    logit = moved(logits(10))
    with backend("cuda"), pytest.raises(ValueError, match=r"16 tensors, got 10 of 17"):
        ops.accept_compact(logit, *[logit] * 17, rng=Rng(0), log_m=0.0)


def test_rows_of_every_dtype_in_every_layout():
    for rows in exotic.all_rows()[::4]:
        expected, found = exotic.moved("reference", rows), exotic.moved("cuda", rows, moved)
        for (kind, left), (other, right) in zip(expected, found, strict=True):
            assert kind == other
            assert torch.equal(left, right)


@pytest.mark.parametrize("place", exotic.PLACES)
def test_what_holds_no_numbers_in_memory_is_refused(place):
    given, call = exotic.PLACES[place]
    for make, said in exotic.REFUSED.values():
        with backend("cuda"), pytest.raises(ValueError, match=f"{said}|must be a finite number"):
            call(make(given))
