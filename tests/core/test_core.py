"""Rng, GAN and its logits, and error messages for input that must be a mistake."""

import re

import numpy as np
import pytest
import torch
from networks import networks, out
from torch import nn

import drs_fast as drs
from drs_fast import GAN, BadLogits, Rng, backend, ops
from drs_fast.core import check_invalid
from drs_fast.gan import block_rows
from drs_fast.samplers import DRS

TOO_BIG = 2**64


def make(**kwargs):
    return GAN(*networks(), 2, **kwargs)


def conditional():
    return GAN(lambda z, y: z + y[:, None], lambda x, y: x[:, 0] * y, 2, labels=3)


@pytest.mark.parametrize(
    "seed", [0, 5, 2**64 - 1, np.int64(7), np.uint64(2**64 - 1), torch.tensor(3)]
)
@pytest.mark.parametrize("row", [0, 2**63 - 1, np.int32(9)])
def test_rng_takes_integers(seed, row):
    rng = Rng(seed, row)
    assert (type(rng.seed), type(rng.row)) == (int, int)
    assert (rng.seed, rng.row) == (int(seed), int(row))
    assert rng.at(4) == Rng(int(seed), 4)
    assert hash(rng) == hash(Rng(int(seed), int(row)))


@pytest.mark.parametrize(
    "wrong", [-1, TOO_BIG, 1.0, True, "1", None, np.float64(1), np.bool_(True)]
)
def test_rng_refuses_the_rest(wrong):
    with pytest.raises(ValueError, match="seed must be"):
        Rng(wrong)
    with pytest.raises(ValueError, match="row must be"):
        Rng(0, 2**63 if wrong is TOO_BIG else wrong)


def test_modules_are_put_in_eval_mode():
    generator, discriminator = networks()
    assert generator.training
    GAN(generator, discriminator, 2)
    assert not generator.training
    assert not generator[2].training
    assert not discriminator.training


@pytest.mark.parametrize("block", [16, 128, 256, 300, 1024])
@pytest.mark.parametrize("n", [0, 1, 7, 128, 255, 256, 257, 600, 1025])
def test_equal_bits_for_every_number_of_rows(n, block):
    gan = make(block=block)
    z = ops.latents(gan, Rng(3), 1025)
    x, logit = gan.logits(z)
    first_x, first_logit = gan.logits(z[:n])
    assert first_x.shape == (n, 3)
    assert (first_logit.shape, first_logit.dtype) == ((n,), torch.float32)
    assert torch.equal(first_x, x[:n])
    assert torch.equal(first_logit, logit[:n])
    with torch.no_grad():
        expected = gan.discriminator(gan.generator(z))[:, 0]
    assert torch.allclose(logit, expected, atol=1e-5)
    assert not logit.requires_grad


def test_networks_see_blocks_of_few_shapes():
    seen = []

    def generator(z):
        seen.append((tuple(z.shape), torch.is_inference_mode_enabled()))
        return z

    gan = GAN(generator, lambda x: x[:, 0], 2, block=300)
    for n in (0, 1, 128, 129, 256, 257, 512, 513):
        gan.logits(torch.ones(n, 2))
    assert all(inference for _, inference in seen)
    rows = [shape[0] for shape, _ in seen]
    assert rows == [128, 128, 128, 256, 256, 512, 512, 512, 128]


def test_blocks_have_one_shape_where_others_round_differently():
    seen = []
    gan = GAN(lambda z: seen.append(len(z)) or z, lambda x: x[:, 0], 2, block=512)
    gan.changed(lambda network: network).logits(torch.ones(513, 2))
    gan.on(block=16).logits(torch.ones(17, 2))
    assert seen == [512, 512, 16, 16]
    assert gan.call_rows(1) == 128
    assert GAN(nn.Linear(2, 2, device="meta"), torch.tanh, 2, block=512).call_rows(1) == 512


@pytest.mark.parametrize(
    "shape",
    [
        lambda s: s,
        lambda s: s[:, None],
        lambda s: s[:, None, None, None],
        lambda s: (s, "features"),
        lambda s: [s[:, None], None],
        lambda s: s.double(),
        lambda s: s.repeat_interleave(2)[::2],
    ],
    ids=["(n,)", "(n,1)", "(n,1,1,1)", "tuple", "list", "float64", "strided"],
)
def test_a_number_per_sample_in_any_wrapping(shape):
    gan = GAN(lambda z: z * 2, lambda x: shape(x.sum(1)), 2)
    z = ops.latents(gan, Rng(1), 9)
    logit = gan.logits(z)[1]
    assert logit.dtype == torch.float32
    assert torch.equal(logit, (z * 2).sum(1))


def test_probability_link():
    gan = GAN(lambda z: z, lambda x: x[:, 0], 1, link="probability")
    p = torch.tensor([0.0, 1e-30, 1e-7, 0.25, 0.5, 1 - 2.0**-24, 1.0])
    logit = gan.logits(p[:, None])[1]
    expected = torch.log(p.double()) - torch.log1p(-p.double())
    assert torch.equal(logit, expected.float())
    assert float(logit[0]) == -torch.inf
    assert float(logit[-1]) == torch.inf
    assert GAN(lambda z: z, lambda x: x[:, 0], 1, link=torch.exp).logits(p[:, None])[1][4] > 1.6


def test_labels_reach_both_networks():
    gan = conditional()
    y = torch.tensor([2, 0, 1])
    x, logit = gan.logits(torch.ones(3, 2), y)
    assert x.tolist() == [[3, 3], [1, 1], [2, 2]]
    assert logit.tolist() == [6, 0, 2]


def test_outputs_keep_their_dtype_and_shape():
    gan = GAN(
        lambda z: (z[:, :, None] * 99).to(torch.uint8).expand(-1, 2, 3),
        lambda x: x[:, 0, 0].float(),
        2,
    )
    x, _ = gan.logits(torch.ones(5, 2))
    assert (x.shape, x.dtype) == ((5, 2, 3), torch.uint8)


def test_device_is_the_generators():
    assert make().device == torch.device("cpu")
    assert GAN(torch.tanh, torch.tanh, 2).device == torch.device("cpu")
    assert GAN(nn.Linear(2, 2, device="meta"), torch.tanh, 2).device == torch.device("meta")


def test_on_changes_the_block_of_a_copy():
    gan = make(block=256)
    other = gan.on(block=1000)
    assert (gan.block, other.block) == (256, 1024)
    assert other.generator is gan.generator


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(1, 1), (3, 4), (16, 16), (129, 256), (255, 256), (256, 256), (257, 512), (4096, 4096)],
)
def test_blocks_are_powers_of_two_or_multiples_of_256(rows, expected):
    assert block_rows(rows) == expected


class TestSha256:
    def test_it_is_stable(self):
        assert make().sha256() == make().sha256()
        assert re.fullmatch("[0-9a-f]{64}", make().sha256())

    @pytest.mark.parametrize(
        "change", [{"name": "other"}, {"block": 512}, {"real": torch.zeros(3)}], ids=str
    )
    def test_names_do_not_count(self, change):
        assert make(**change).sha256() == make().sha256()

    @pytest.mark.parametrize(
        "change",
        [{"prior": "uniform"}, {"link": "probability"}, {"labels": 3}, {"prior": torch.sin}],
        ids=["prior", "link", "labels", "function"],
    )
    def test_the_spec_counts(self, change):
        assert make(**change).sha256() != make().sha256()

    def test_every_weight_counts(self):
        for which in ("generator", "discriminator"):
            for i in range(4):
                gan = make()
                parameter = list(getattr(gan, which).parameters())[i]
                parameter.data.view(-1)[0] += 1e-6
                assert gan.sha256() != make().sha256()

    def test_buffers_and_every_dtype_count(self):
        digests = set()
        for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool):
            for fill in (0, 1):
                generator = nn.Linear(2, 3)
                generator.weight.data.fill_(1)
                generator.bias.data.fill_(1)
                generator.register_buffer("extra", torch.full((), fill, dtype=dtype))
                digests.add(GAN(generator, torch.tanh, 2).sha256())
        assert len(digests) == 10

    def test_the_source_of_functions_counts(self):
        first = GAN(lambda z: z, lambda x: x[:, 0], 2)
        second = GAN(lambda z: z * 2, lambda x: x[:, 0], 2)
        assert first.sha256() != second.sha256()


def test_invalid_logits_past_a_share_are_an_error():
    check_invalid(3, 5)
    check_invalid(120, 1_000_000)  # 100 and two standard deviations: the share may be 0.01 %
    with pytest.raises(BadLogits, match="121 of 1,000,000 logits are NaN or"):
        check_invalid(121, 1_000_000)
    with pytest.raises(BadLogits, match="4 of 5"):
        check_invalid(4, 5)


# Input that cannot be meant: what was expected and what came is said, whatever it is.

R, L, N = Rng(0), torch.zeros(8), 8
IDS = torch.arange(8)


def accept(logit=L, rng=R, log_m=0.0, **kwargs):
    return ops.accept(logit, rng, log_m=log_m, **kwargs)


def compact(logit=L, *rows, rng=R, log_m=0.0, **kwargs):
    return ops.accept_compact(logit, *rows, rng=rng, log_m=log_m, **kwargs)


def into(**changes):
    return compact(L, torch.zeros(8, 3), out=out(**changes))


def logits_of(discriminator=lambda x: x[:, 0], generator=lambda z: z, z=None, y=None, **kwargs):
    gan = GAN(generator, discriminator, 2, **kwargs)
    return gan.logits(torch.zeros(4, 2) if z is None else z, y)


def generate(gan=None, sampler=None, n=4, **kwargs):
    sampler = DRS(burn_in=256, gamma=0.0) if sampler is None else sampler
    return drs.generate(make() if gan is None else gan, sampler, n, **kwargs)


def with_backend(name, logit=L):
    with backend(name):
        return ops.probability(logit, log_m=0.0)


META = L.to("meta")
BAD = {
    # ops: logits
    "logit (n, 1)": (lambda: accept(L[:, None]), r"\(N,\), got \(8, 1\); squeeze"),
    "logit (n, k)": (lambda: accept(torch.zeros(4, 2)), r"\(N,\), got \(4, 2\)$"),
    "logit ()": (lambda: accept(torch.tensor(0.0)), r"\(N,\), got \(\)"),
    "logit int": (lambda: accept(L.long()), "floating-point .* got .*int64"),
    "logit bool": (lambda: ops.probability(L > 0, log_m=0.0), "floating-point .* got .*bool"),
    "logit complex": (lambda: accept(L.to(torch.complex64)), "floating-point .* got .*complex64"),
    "logit list": (lambda: accept([0.0]), "floating-point .* got list"),
    "logit numpy": (lambda: accept(np.zeros(8)), "floating-point .* got ndarray"),
    "logit None": (lambda: compact(None), "floating-point .* got NoneType"),
    "logit meta, compact": (lambda: compact(META), "meta"),
    "logit meta, latents": (
        lambda: ops.accept_latents(META, 2, rng=R, log_m=0.0),
        "meta",
    ),
    "logit meta, quantile": (lambda: ops.quantile_gamma(META, 50, log_m=0.0), "meta"),
    "logit meta, cpu": (
        lambda: with_backend("cpu", META),
        r"logit must be a dense tensor of numbers, got \(8,\) float32 on meta",
    ),
    # ops: rows
    "rng int": (lambda: accept(rng=5), r"Rng\(seed, row\), got 5"),
    "rng None": (lambda: ops.uniform(None, 3, stream=1), r"Rng\(seed, row\), got NoneType"),
    "rows past 2^63": (lambda: accept(rng=Rng(0, 2**63 - 7)), r"pass 2\^63"),
    "n negative": (lambda: ops.uniform(R, -1, stream=1), "n must be .* >= 0, got -1"),
    "n float": (lambda: ops.uniform(R, 4.0, stream=1), "n must be an integer .* got 4.0"),
    "n bool": (lambda: ops.normal(R, True, 2), "n must be an integer .* got True"),
    "d negative": (lambda: ops.normal(R, 3, -1), "d must be .* >= 0, got -1"),
    "d float": (lambda: ops.normal(R, 3, 2.0), "d must be an integer .* got 2.0"),
    "d text": (lambda: ops.words(R, 3, "2"), "d must be an integer .* got '2'"),
    "d None": (lambda: ops.accept_latents(L, None, rng=R, log_m=0.0), "d must be .* got None"),
    "stream negative": (lambda: ops.uniform(R, 3, stream=-1), r"stream .* 2\^32\), got -1"),
    "stream 2^32": (lambda: ops.words(R, 3, 2, stream=2**32), r"stream .* 2\^32\), got 4294967296"),
    "stream text": (lambda: ops.normal(R, 3, 2, stream="latent"), "stream .* got 'latent'"),
    "draw negative": (lambda: ops.uniform(R, 3, stream=1, draw=-1), "draw .* got -1"),
    "draw None": (lambda: ops.normal(R, 3, 2, draw=None), "draw .* got None"),
    "draw past 2^32": (lambda: ops.normal(R, 3, 9, draw=2**32 - 2), "draw .* got 4294967296"),
    "device unknown": (lambda: ops.uniform(R, 3, stream=1, device="tpu"), "device"),
    "device None": (lambda: ops.uniform(R, 3, stream=1, device=None), "device"),
    "ids negative": (lambda: accept(ids=IDS - 1), "ids .* >= 0, got -1"),
    "ids float": (lambda: accept(ids=L), r"ids must be \(8,\) int64, got \(8,\) float32"),
    "ids int32": (lambda: accept(ids=IDS.int()), r"ids must be \(8,\) int64, got .*int32"),
    "ids short": (lambda: compact(ids=IDS[:7]), r"ids must be \(8,\) int64, got \(7,\)"),
    "ids (n, 1)": (lambda: compact(ids=IDS[:, None]), r"ids must be \(8,\) int64, got \(8, 1\)"),
    "ids list": (lambda: ops.uniform(R, 2, stream=1, ids=[0, 1]), "ids must be .* got list"),
    "ids meta": (
        lambda: accept(ids=IDS.to("meta")),
        "ids must be a dense tensor of numbers, got .* on meta",
    ),
    # ops: thresholds
    "eps negative": (lambda: accept(eps=-1e-9), r"eps .*\[0, 1\], got -1e-09"),
    "eps 2": (lambda: accept(eps=2), r"eps .*\[0, 1\], got 2"),
    "eps nan": (lambda: accept(eps=float("nan")), r"eps .*\[0, 1\], got nan"),
    "eps text": (lambda: accept(eps="small"), r"eps .*\[0, 1\], got 'small'"),
    "eps tensor": (
        lambda: accept(eps=torch.tensor(0.1)),
        r"eps must be .* got \(\) float32",
    ),
    "gamma 601": (lambda: accept(gamma=601.0), r"gamma .*\[-600, 600\], got 601"),
    "gamma -601": (lambda: accept(gamma=torch.tensor(-601.0)), r"gamma .*\[-600, 600\], got"),
    "gamma nan": (lambda: accept(gamma=float("nan")), "gamma must be .* got nan"),
    "gamma row of nan": (lambda: accept(gamma=L * torch.nan), "gamma must be finite.*got"),
    "gamma short": (lambda: accept(gamma=L[:7]), r"gamma must be .*\(8,\), got \(7,\)"),
    "gamma (n, 1)": (lambda: accept(gamma=L[:, None]), r"gamma must be .*\(8,\), got \(8, 1\)"),
    "gamma None": (lambda: accept(gamma=None), "gamma must be a .* got None"),
    "log_m nan": (lambda: accept(log_m=float("nan")), "log_m must be .* got nan"),
    "log_m inf": (lambda: ops.probability(L, log_m=float("inf")), "log_m must be .* got inf"),
    "log_m tensor of inf": (lambda: accept(log_m=L + torch.inf), "log_m must be finite, got"),
    "log_m None": (lambda: accept(log_m=None), "log_m must be a .* got None"),
    "log_m text": (lambda: accept(log_m="max"), "log_m must be a .* got 'max'"),
    "log_m complex": (lambda: accept(log_m=torch.tensor(1j)), "log_m must be .* got"),
    "log_m meta": (
        lambda: accept(log_m=META),
        "log_m must be a dense tensor of numbers, got .* on meta",
    ),
    # ops: rows to compact
    "rows short": (lambda: compact(L, L[:7]), r"rows\[0\] must be \(8, ...\) on cpu, got \(7,\)"),
    "rows ()": (lambda: compact(L, L, torch.tensor(0)), r"rows\[1\] must be .* got \(\) int64"),
    "rows list": (lambda: compact(L, [0] * 8), r"rows\[0\] must be .* got list"),
    "rows meta": (
        lambda: compact(L, META),
        r"rows\[0\] must be a dense tensor of numbers, got .* on meta",
    ),
    # ops: out
    "out a dict": (lambda: compact(L, out={}), "Compacted with 0 row tensors, got dict"),
    "out without rows": (lambda: into(rows=()), "Compacted with 1 row tensors, got"),
    "out.rows shape": (
        lambda: into(rows=(torch.zeros(8, 4),)),
        r"out.rows\[0\] must be .*\(8, 3\) .*float32 .*got \(8, 4\)",
    ),
    "out.rows dtype": (
        lambda: into(rows=(torch.zeros(8, 3).double(),)),
        r"out.rows\[0\] must be .*float32 .*got \(8, 3\) float64",
    ),
    "out.rows device": (
        lambda: into(rows=(torch.zeros(8, 3, device="meta"),)),
        r"out.rows\[0\] must be a dense tensor of numbers, got .* on meta",
    ),
    "out.rows strided": (
        lambda: into(rows=(torch.zeros(3, 8).T,)),
        r"out.rows\[0\] must be contiguous .*got .*(strid|not contig)",
    ),
    "out.rows capacity": (
        lambda: into(rows=(torch.zeros(9, 3),)),
        r"out.rows\[0\] must be .*\(8, 3\) .*got \(9, 3\)",
    ),
    "out.ids dtype": (lambda: into(ids=IDS.int()), "out.ids must be .*int64 .*got .*int32"),
    "out.logit dtype": (lambda: into(logit=L.half()), "out.logit must be .*got .*float16"),
    "out.count shape": (
        lambda: into(count=torch.zeros(1).long()),
        r"out.count must be .*\(\) .*got \(1,\)",
    ),
    "out.above float": (lambda: into(above=torch.tensor(0.0)), "out.above must be .*got .*float32"),
    "out.ids None": (lambda: into(ids=None), "out.ids must be .*got NoneType"),
    "out.count int": (lambda: into(count=0), "out.count must be .*got 0"),
    "out of latents": (
        lambda: ops.accept_latents(L, 4, rng=R, log_m=0.0, out=out()),
        r"out.rows\[0\] must be .*\(8, 4\) .*got \(8, 3\)",
    ),
    # ops: quantiles and backends
    "q 0.8": (lambda: ops.quantile_gamma(L, 0.8, log_m=0.0), "percent, .*got 0.8; .*80"),
    "q 101": (lambda: ops.quantile_gamma(L, 101, log_m=0.0), "percent, .*got 101"),
    "q nan": (lambda: ops.quantile_gamma(L, float("nan"), log_m=0.0), "percent, .*got nan"),
    "q text": (lambda: ops.quantile_gamma(L, "median", log_m=0.0), "percent, .*got 'median'"),
    "interpolation": (
        lambda: ops.quantile_gamma(L, 50, log_m=0.0, interpolation="lower"),
        r"interpolation must be one of \('none', 'linear'\), got 'lower'",
    ),
    "q None": (lambda: ops.quantile_gamma(L, None, log_m=0.0), "percent, .*got NoneType"),
    "quantile of nothing": (lambda: ops.quantile_gamma(L[:0], 50, log_m=0.0), "got an empty"),
    "quantile log_m (n,)": (
        lambda: ops.quantile_gamma(L, 50, log_m=L),
        r"single number, got \(8,\)",
    ),
    "backend unknown": (lambda: with_backend("numpy"), "backend must be one of .*got 'numpy'"),
    "backend a number": (lambda: with_backend(3), "backend must be one of .*got 3"),
    # GAN
    "generator None": (
        lambda: GAN(None, torch.tanh, 2),
        "generator must be callable, got NoneType",
    ),
    "discriminator path": (
        lambda: GAN(torch.tanh, "d.pt", 2),
        "discriminator must be callable, got str",
    ),
    "latent_dim 0": (
        lambda: GAN(torch.tanh, torch.tanh, 0),
        "latent_dim .*>= 1, got 0",
    ),
    "latent_dim 2.0": (lambda: GAN(torch.tanh, torch.tanh, 2.0), "latent_dim .*got 2.0"),
    "latent_dim bool": (lambda: GAN(torch.tanh, torch.tanh, True), "latent_dim .*got True"),
    "latent_dim shape": (
        lambda: GAN(torch.tanh, torch.tanh, (2,)),
        "latent_dim .*got tuple",
    ),
    "prior unknown": (lambda: make(prior="gaussian"), "prior must be one of .*got 'gaussian'"),
    "link unknown": (lambda: make(link="sigmoid"), "link must be one of .*got 'sigmoid'"),
    "link dict": (lambda: make(link={}), r"link must be one of .*got \{\}"),
    "labels 0": (lambda: make(labels=0), "labels must be an integer >= 1, got 0"),
    "labels list": (lambda: make(labels=["cat"]), "labels must be an integer >= 1, got list"),
    "block 0": (lambda: make(block=0), r"batch_size must be an integer in \[1, 2\^31\), got 0"),
    "z of another width": (
        lambda: logits_of(z=torch.zeros(4, 3)),
        r"z must be \(n, 2\), got \(4, 3\)",
    ),
    "z of one row": (lambda: logits_of(z=torch.zeros(2)), r"z must be \(n, 2\), got \(2,\)"),
    "z list": (lambda: logits_of(z=[[0.0, 0.0]]), r"z must be \(n, 2\).*got list"),
    "z float64": (lambda: make().logits(torch.zeros(4, 2).double()), "(float32|dtype).*"),
    "z int": (lambda: make().logits(torch.zeros(4, 2).long()), "(float32|dtype).*"),
    "y without labels": (lambda: logits_of(y=torch.zeros(4).long()), "no labels; drop y"),
    "labels without y": (lambda: conditional().logits(torch.zeros(4, 2)), "3 classes; pass y"),
    "y float": (
        lambda: conditional().logits(torch.zeros(4, 2), torch.zeros(4)),
        r"y must be \(4,\) int64, got \(4,\) float32",
    ),
    "y short": (
        lambda: conditional().logits(torch.zeros(4, 2), torch.zeros(3).long()),
        r"y must be \(4,\) int64, got \(3,\)",
    ),
    "D returns a dict": (
        lambda: logits_of(lambda x: {"out": x}),
        r"a dict of 'out' .*; drs.wrap\(D, output=\"out\", reduce=\"mean\"\)",
    ),
    "D returns (n, C)": (lambda: logits_of(lambda x: x), r"one floating-point .*got \(128, 2\)"),
    "D returns patches": (
        lambda: logits_of(lambda x: x[:, :1, None].expand(-1, 4, 4)),
        r"got \(128, 4, 4\) float32 with strides .*; drs.wrap\(D, reduce=.mean.\)",
    ),
    "D returns a mean": (lambda: logits_of(lambda x: x.mean()), r"got \(\) float32"),
    "D returns too few": (lambda: logits_of(lambda x: x[:5, 0]), r"got \(5,\) float32"),
    "D returns classes": (lambda: logits_of(lambda x: x[:, 0] > 0), r"got \(128,\) bool"),
    "D returns numpy": (lambda: logits_of(lambda x: x[:, 0].numpy()), "got ndarray"),
    "D returns None": (lambda: logits_of(lambda x: None), "got NoneType"),
    "D returns ()": (lambda: logits_of(lambda x: ()), "got tuple"),
    "G returns too few": (
        lambda: logits_of(generator=lambda z: z[:3]),
        r"128 samples .*got \(3, 2\)",
    ),
    "G returns numpy": (lambda: logits_of(generator=lambda z: z.numpy()), "got ndarray"),
    "G returns a tuple": (
        lambda: logits_of(generator=lambda z: (z, z)),
        r"got a tuple of .*; drs.wrap\(G, output=0\)",
    ),
    "link to a mean": (lambda: logits_of(link=torch.mean), r"link must .*got \(\)"),
    "link to (n, 2)": (
        lambda: logits_of(link=lambda s: s[:, None].repeat(1, 2)),
        r"link must .*got \(128, 2\)",
    ),
    "link to None": (lambda: logits_of(link=lambda s: None), "link must .*got NoneType"),
    "prior to (n, 1)": (
        lambda: ops.latents(make(prior=lambda z: z[:, :1]), R, 4),
        r"prior must map normals \(256, 2\)",
    ),
    # DRS
    "DRS percentile 0.8": (lambda: DRS(percentile=0.8), "percent, got 0.8; .*80"),
    "DRS percentile 101": (lambda: DRS(percentile=101), r"percentile .*\[0, 100\], got 101"),
    "DRS gamma and percentile": (lambda: DRS(gamma=0.0, percentile=80), "one of gamma, .*got"),
    "DRS percentile and target": (
        lambda: DRS(percentile=80, target_acceptance=0.1),
        "one of gamma, .*got",
    ),
    "DRS target 0": (lambda: DRS(target_acceptance=0.0), "target_acceptance .*greater than 0"),
    "DRS target 2": (lambda: DRS(target_acceptance=2), r"target_acceptance .*\[0, 1\], got 2"),
    "DRS gamma nan": (lambda: DRS(gamma=float("nan")), r"gamma .*\[-600, 600\], got nan"),
    "DRS gamma 601": (lambda: DRS(gamma=601), r"gamma .*\[-600, 600\], got 601"),
    "DRS gamma text": (lambda: DRS(gamma="high"), "gamma .*got 'high'"),
    "DRS eps -1": (lambda: DRS(eps=-1), r"eps .*\[0, 1\], got -1"),
    "DRS log_m inf": (lambda: DRS(log_m=float("inf")), "log_m must be a .*got inf"),
    "DRS burn_in 0": (lambda: DRS(burn_in=0), "burn_in .*>= 1, got 0"),
    "DRS adapt": (lambda: DRS(adapt="always"), "adapt must be None or 'batch', got 'always'"),
    "DRS adapt with gamma": (lambda: DRS(adapt="batch", gamma=1.0), "finds gamma from"),
    # generate
    "gan a name": (lambda: generate(gan="25gaussians"), "drs.GAN, got str; use drs.load"),
    "sampler a class": (
        lambda: generate(sampler=DRS),
        r"instance, such as drs.samplers.DRS\(\), got",
    ),
    "sampler a name": (lambda: generate(sampler="drs"), "instance, such as .*got 'drs'"),
    "n -1": (lambda: generate(n=-1), "n must be an integer >= 0, got -1"),
    "n 1e6": (lambda: generate(n=1e6), "n must be an integer >= 0, got 1000000.0"),
    "seed -1": (lambda: generate(seed=-1), r"seed .*\[0, 2\^64\), got -1"),
    "seed 2^64": (lambda: generate(seed=2**64), r"seed .*\[0, 2\^64\), got 18446744073709551616"),
    "seed None": (
        lambda: generate(seed=None),
        "seed must be an integer .*NoneType",
    ),
    "batch_size 0": (
        lambda: generate(batch_size=0),
        r"batch_size must be an integer in \[1, 2\^31\), got 0",
    ),
    "batch_size 1.5": (
        lambda: generate(batch_size=1.5),
        "batch_size must be an integer .*got 1.5",
    ),
    "max_proposals 0": (lambda: generate(max_proposals=0), "max_proposals .*>= 1, got 0"),
    "patience 0": (lambda: generate(patience=0), "patience .*>= 1, got 0"),
    "chunk_rows -4": (lambda: generate(chunk_rows=-4), "chunk_rows .*>= 1, got -4"),
    "device meta": (lambda: generate(device="meta"), "meta"),
    "device nowhere": (lambda: generate(device="tpu"), "device"),
    "D of probabilities": (
        lambda: generate(GAN(lambda z: z, lambda x: x[:, 0].sigmoid(), 2)),
        r"only values in \[0, 1\] .*link='probability'",
    ),
    "D of NaN": (lambda: generate(GAN(lambda z: z, lambda x: x[:, 0] * torch.nan, 2)), "NaN or"),
    "D of -inf": (
        lambda: generate(GAN(lambda z: z, lambda x: x[:, 0] * 0 - torch.inf, 2)),
        "none of .*finite",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_explained(call, message):
    with pytest.raises((ValueError, RuntimeError), match=message) as caught:
        call()
    assert not isinstance(caught.value, NotImplementedError)


def test_there_are_sixty_bad_inputs():
    assert len(BAD) >= 60


@pytest.mark.parametrize(
    ("key", "changes"), [("save", {"save": ("x", "pixels")}), ("chunk_rows", {"chunk_rows": 3})]
)
def test_bad_input_leaves_no_directory(tmp_path, key, changes):
    with pytest.raises(ValueError, match=f"{key} .*got"):
        generate(out=tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_a_device_that_cannot_serve_leaves_the_weights_alone():
    gan = make()
    before = gan.sha256()
    with pytest.raises((ValueError, RuntimeError)):
        generate(gan, device="meta")
    assert gan.device == torch.device("cpu")
    assert gan.sha256() == before


def test_no_samples_is_not_an_error():
    batch = generate(n=0)
    assert (batch.x.shape, batch.z.shape, batch.logit.shape) == ((0, 3), (0, 2), (0,))
    assert int(batch.count) == 0
    empty = compact(L[:0], torch.zeros(0, 3))
    assert (int(empty.count), empty.rows[0].shape) == (0, (0, 3))
    assert accept(L[:0]).shape == (0,)
    assert ops.probability(L[:0], log_m=0.0).shape == (0,)
    assert ops.accept_latents(L[:0], 0, rng=R, log_m=0.0).rows[0].shape == (0, 0)
