"""torch.compile, torch.export and opcheck see the ops as operators; eager calls skip them."""

import contextlib
import importlib

import pytest
import torch
from agreement import noise, unmoved
from op_cases import CASES, GAMMA, GROUPS, IDS, LOG_M, LOGIT, PER_ROW, RNG, N, Z, flat
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from drs_fast import GAN, Rng, backend, ops

SEED = RNG.signed_seed, RNG.row
CALLS = {name: lambda call=call: call(unmoved) for name, call in CASES.items()}


def assert_same(found, expected):
    for a, b in zip(flat(found), flat(expected), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", CALLS)
def test_a_whole_graph_gives_the_same_bits(name):
    torch.compiler.reset()
    expected = CALLS[name]()
    assert_same(torch.compile(CALLS[name], fullgraph=True, backend="aot_eager")(), expected)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of Inductor's own imports
def test_a_sampling_step_compiles_to_one_graph():
    config = importlib.import_module("torch._inductor.config")
    torch.compiler.reset()
    weight = noise(3, 3, seed=3)

    def step(row, log_m):
        z = ops.normal(Rng(9, 100), N, 3, ids=row + torch.arange(N))
        logit = (z @ weight).sum(dim=1)
        return ops.accept_compact(logit, z, rng=RNG, log_m=log_m + 1.0, ids=row + torch.arange(N))

    compiled = torch.compile(step, fullgraph=True)
    # Neither starts processes that compile nor compiles a program for each set of instructions.
    with config.patch({"compile_threads": 1, "cpp.vec_isa_ok": True}):
        for row in (0, 2**40):
            arguments = torch.tensor(row), torch.tensor(2.0, dtype=torch.float64)
            assert_same(compiled(*arguments), step(*arguments))


def test_a_given_output_is_written_in_a_graph():
    torch.compiler.reset()

    def step(out):
        return ops.accept_compact(LOGIT, Z, rng=RNG, log_m=1.5, out=out).count + 1

    out, other = (ops.accept_compact(LOGIT, Z, rng=Rng(1), log_m=9.0) for _ in range(2))
    count = torch.compile(step, fullgraph=True, backend="aot_eager")(out)
    step(other)
    assert_same(out, other)
    assert int(count) == int(out.count) + 1


def test_a_ring_moves_on_in_a_graph():
    torch.compiler.reset()

    def step(ring):
        ops.accept_append(LOGIT, Z, ring=ring, gamma=0.5)
        return ring.cursor + 0

    rings = [ops.ring(LOGIT, Z, rng=RNG, capacity=512, log_m=1.5) for _ in range(2)]
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        assert int(compiled(rings[0])) == int(step(rings[1]))
        assert torch.equal(rings[0].state, rings[1].state)
        assert torch.equal(
            rings[0].ids[: int(rings[0].cursor)], rings[1].ids[: int(rings[1].cursor)]
        )


def test_another_row_and_seed_need_no_other_graph():
    torch.compiler.reset()
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    def step(logit, seed, row):
        return ops.accept(logit, Rng(seed, row), log_m=1.5)

    compiled = torch.compile(step, fullgraph=True, backend=keep)
    for i in range(6):
        seed, row = 3 + 5 * i, 2**32 + 1000 * i
        assert torch.equal(compiled(LOGIT, seed, row), step(LOGIT, seed, row))
    assert len(graphs) <= 3


def test_export_takes_any_number_of_rows():
    class Step(torch.nn.Module):
        def forward(self, logit, z):
            kept = ops.accept_compact(logit, z, rng=RNG, log_m=1.5)
            return kept.rows[0], kept.count

    n = torch.export.Dim("n", min=2)
    program = torch.export.export(Step(), (LOGIT, Z), dynamic_shapes=({0: n}, {0: n}), strict=False)
    rows, count = program.module()(LOGIT[:77], Z[:77])
    expected = ops.accept_compact(LOGIT[:77], Z[:77], rng=RNG, log_m=1.5)
    assert torch.equal(rows[: int(count)], expected.rows[0][: int(expected.count)])


def test_export_keeps_the_operator():
    class Step(torch.nn.Module):
        def forward(self, logit):
            return ops.accept(logit, RNG, log_m=1.5)

    program = torch.export.export(Step(), (LOGIT,))
    assert "drs_fast.accept" in program.graph_module.code
    assert torch.equal(program.module()(LOGIT), ops.accept(LOGIT, RNG, log_m=1.5))


def out_of(*rows):
    made = ops.accept_compact(LOGIT, *rows, rng=Rng(0), log_m=50.0)
    return [*made.rows, made.ids, made.logit, made.count, made.invalid, made.above]


def ring_of(*rows):
    ring = ops.ring(LOGIT, *rows, rng=RNG, capacity=512, log_m=1.5)
    for tensor in (*ring.rows, ring.ids, ring.logit):
        tensor.zero_()
    return [*ring.rows, ring.ids, ring.logit, ring.state, ring.workspace]


CPU = torch.device("cpu")
OPERATORS = {
    "uniform": (*SEED, None, N, 3, 0, CPU),
    "words": (*SEED, None, N, 5, 0, 2, CPU),
    "normal": (*SEED, IDS, N, 5, 0, 0, CPU),
    "probability": (LOGIT, PER_ROW, GAMMA, 1e-6),
    "weight": (LOGIT, PER_ROW, GAMMA, 1e-6),
    "accept": (LOGIT, *SEED, IDS, LOG_M, GAMMA, 1e-6),
    "accept_compact": (LOGIT, [Z, Z > 0], *SEED, None, LOG_M, GAMMA, 1e-6, out_of(Z, Z > 0)),
    "accept_latents": (LOGIT, 3, *SEED, None, LOG_M, GAMMA, 1e-6, out_of(Z)),
    "accept_append": (LOGIT, [Z], SEED[0], N, None, None, GAMMA, 1e-6, ring_of(Z)),
    "largest": (LOGIT,),
    "quantile_gamma": (LOGIT, 80.0, LOG_M, 1e-6, "linear"),
    "chain": (GROUPS, *SEED, IDS, GROUPS[:, 0]),
    "walk": (GROUPS, *SEED, None, GROUPS[:, 0]),
    "select": (GROUPS, *SEED, None, 3, False),
    "langevin": (Z, Z + 1.0, *SEED, None, 3, 0.1, 0.5),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name):
    with backend("reference"):
        torch.library.opcheck(getattr(torch.ops.drs_fast, name), OPERATORS[name])


def test_every_operator_is_checked():
    assert set(OPERATORS) == {name.split()[0] for name in CALLS} | {"accept_append"}
    registered = {
        name.split("::")[1]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("drs_fast::")
    }
    assert registered == set(OPERATORS)


def test_opcheck_sees_a_wrong_shape(monkeypatch):
    library = torch.library.Library("drs_fast_wrong", "DEF")
    library.define("largest(Tensor logit) -> Tensor")
    library.impl("largest", lambda logit: ops.largest(logit), "CompositeExplicitAutograd")
    torch.library.register_fake(
        "drs_fast_wrong::largest", lambda logit: logit.new_empty(1), lib=library
    )
    with pytest.raises(Exception, match=r"(?s)test_faketensor"):
        torch.library.opcheck(torch.ops.drs_fast_wrong.largest, (LOGIT,))


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_a_fake_or_transformed_call_leaves_nothing_behind(name):
    def call(logit):
        return ops.probability(logit, log_m=1.25, gamma=0.125, eps=3e-5)

    with backend(name):
        for attempt in (
            lambda: call(torch.empty(3)),
            lambda: torch.func.vmap(call)(torch.zeros(2, 3)),
            lambda: torch.func.jacfwd(call)(torch.zeros(3)),
        ):
            with contextlib.suppress(Exception), FakeTensorMode():
                attempt()
            with contextlib.suppress(Exception):
                attempt()
        assert bool((call(torch.zeros(3)) > 0).all())


class WithoutOperators(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.namespace != "drs_fast", "an eager call went through torch.library"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", CALLS)
def test_eager_calls_do_not_pay_for_operators(name):
    with WithoutOperators():
        CALLS[name]()


WRONG = {
    "an unknown name": lambda: ops.accept(LOGIT, RNG, log_m=1.5, gama=0.5),
    "too many": lambda: ops.probability(LOGIT, 1.5, log_m=1.5),
    "one missing": lambda: ops.accept_compact(LOGIT, Z, rng=RNG),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_an_error_in_a_graph_too(name):
    torch.compiler.reset()
    with pytest.raises(TypeError):
        WRONG[name]()
    with pytest.raises(Exception, match=r"drs_fast::\w+.*argument|argument.*drs_fast::\w+"):
        torch.compile(WRONG[name], fullgraph=True, backend="aot_eager")()


def test_a_graph_goes_through_the_operators(monkeypatch):
    torch.compiler.reset()
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph.code)
        return graph

    torch.compile(CALLS["accept"], fullgraph=True, backend=keep)()
    assert any("drs_fast.accept" in code for code in graphs)


def test_a_gan_with_its_latents_compiles():
    torch.compiler.reset()
    gan = GAN(lambda z: z * 2.0, lambda x: x.sum(dim=1), latent_dim=3)

    def step():
        z = ops.normal(RNG, 256, gan.latent_dim)
        logit = gan.discriminator(gan.generator(z))
        return ops.accept_compact(logit, z, rng=RNG, log_m=3.0)

    assert_same(torch.compile(step, fullgraph=True, backend="aot_eager")(), step())
