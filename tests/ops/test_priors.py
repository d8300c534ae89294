"""Latents under a callable prior: each row depends on itself alone; what a prior may return."""

import os
import subprocess
import sys

import pytest
import torch
from agreement import threads
from torch import nn

import drs_fast as drs
from drs_fast import GAN, Rng, ops


def made(prior, d=3, **settings):
    return GAN(lambda z: z, lambda x: x[:, 0], d, prior=prior, block=256, **settings)


def mixed(z):
    """A prior that uses strided loops, contiguous loops, and sums over a row."""
    return torch.cat([z[:, :1].sinh() + z.square().sum(dim=1, keepdim=True), z[:, 1:].tan()], dim=1)


def linear(d):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(d, 33), nn.Tanh(), nn.Linear(33, d))


def assert_rows_are_their_own(prior, d):
    """Rows come out alike one by one, in pieces, by ids in any order, and beside distant rows."""
    gan, n, row = made(prior, d), 600, 1003
    whole = ops.latents(gan, Rng(1, row), n)
    with threads(3):
        assert torch.equal(ops.latents(gan, Rng(1, row), n), whole)
    for k in (0, 1, 7, 18, 255, 599):
        assert torch.equal(ops.latents(gan, Rng(1, row + k), 1)[0], whole[k])
    for start in range(0, n, 90):
        part = ops.latents(gan, Rng(1, row + start), 90)
        assert torch.equal(part[: n - start], whole[start : start + 90])
    order = torch.arange(n).roll(31).view(2, -1).T.flatten()
    ids = row + order
    assert torch.equal(ops.latents(gan, Rng(1), n, ids=ids), whole[order])
    consecutive = row + torch.arange(n)
    assert torch.equal(ops.latents(gan, Rng(1), n, ids=consecutive, consecutive=True), whole)
    far = torch.tensor([row + 5, 2**62, row + 5, row + 5 + 256, 0, row + 599])
    picked = ops.latents(gan, Rng(1), 6, ids=far)
    assert torch.equal(picked[[0, 2, 3, 5]], whole[[5, 5, 261, 599]])
    assert torch.equal(picked[1], ops.latents(gan, Rng(1, 2**62), 1)[0])


PRIORS = {
    "sinh": lambda d: torch.sinh,
    "mixed": lambda d: mixed,
    "linear": linear,
    "same storage": lambda d: torch.empty(256, d).copy_,
}


@pytest.mark.parametrize(
    ("name", "d"),
    [("sinh", 1), ("sinh", 3), ("sinh", 700), ("mixed", 5), ("linear", 3), ("same storage", 3)],
)
def test_rows_are_their_own(name, d):
    assert_rows_are_their_own(PRIORS[name](d), d)


def test_rows_are_their_own_by_every_instruction_set():
    program = (
        "import torch, test_priors as t\n"
        "for d in (1, 3, 7): t.assert_rows_are_their_own(torch.sinh, d)\n"
        "t.assert_rows_are_their_own(t.mixed, 5)\n"
    )
    path = os.pathsep.join(sys.path)
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=os.path.dirname(__file__),
            env={**os.environ, "ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": path},
        )
        for capability in ("default", "avx2", "avx512")
    ]
    assert [run.wait() for run in runs] == [0, 0, 0]


def test_a_prior_gets_blocks_of_one_shape_and_no_gradient_of_it_is_kept():
    seen = []

    def prior(z):
        seen.append((tuple(z.shape), z.is_contiguous(), z.requires_grad, torch.is_grad_enabled()))
        return z * weight

    weight = torch.ones(3, requires_grad=True)
    z = ops.latents(made(prior), Rng(0, 100), 300)
    assert set(seen) == {((256, 3), True, False, False)}
    assert len(seen) == 2
    assert not z.requires_grad
    assert torch.equal(z, ops.normal(Rng(0, 100), 300, 3))


def test_runs_do_not_depend_on_the_batch():
    gan = made(mixed)
    runs = [
        drs.generate(gan, drs.samplers.DRS(), 300, batch_size=size) for size in (64, 256, 768, 4096)
    ]
    for run in runs:
        assert torch.equal(run.z, runs[0].z)
        assert torch.equal(run.ids, runs[0].ids)
    ids = runs[0].ids.flip(0)
    assert torch.equal(ops.latents(gan, Rng(0), 300, ids=ids), runs[0].z.flip(0))


def test_no_rows():
    gan = made(torch.sinh)
    assert ops.latents(gan, Rng(0), 0).shape == (0, 3)
    none = torch.zeros(0, dtype=torch.int64)
    assert ops.latents(gan, Rng(0), 0, ids=none).shape == (0, 3)
    assert ops.latents(gan, Rng(0), 0, ids=none, consecutive=True).shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32, torch.bool])
def test_real_numbers_of_any_kind_become_float32(dtype):
    calls = []

    def prior(z):  # of another dtype in every block
        calls.append(1)
        return z.round().abs().to(dtype) if len(calls) % 2 else z.double()

    z = ops.latents(made(prior), Rng(0), 512)
    normals = ops.normal(Rng(0), 512, 3)
    assert z.dtype == torch.float32
    assert torch.equal(z[:256], normals[:256].round().abs().to(dtype).float())
    assert torch.equal(z[256:], normals[256:])


def jagged(z):
    return torch.nested.nested_tensor([*z], layout=torch.strided)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (lambda z: z[:, :1], r"got \(256, 1\) float32"),
        (lambda z: z[:7], r"prior must map normals \(256, 3\) float32 .*got \(7, 3\)"),
        (lambda z: [z], "got list"),
        (lambda z: None, "got NoneType"),
        (lambda z: z.to("meta"), "dense tensor of numbers, got .*on meta"),
        (lambda z: z.to_sparse(), "prior must return a dense tensor of numbers, got .*sparse_coo"),
        (lambda z: z.to_sparse_csr(), "dense tensor of numbers, got .*sparse_csr"),
        (lambda z: z.to(torch.complex64), r"real numbers on cpu, got \(256, 3\) complex64"),
        (lambda z: torch.quantize_per_tensor(z, 0.1, 0, torch.qint8), "dense .*got .*qint8"),
        (jagged, "dense .*got a nested"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:The PyTorch API of nested")
@pytest.mark.filterwarnings("ignore:quantize_per_tensor", "ignore:torch.quantize_per_tensor")
def test_what_is_no_latent_is_refused(prior, message):
    with pytest.raises(ValueError, match=message):
        ops.latents(made(prior), Rng(0), 4)


def test_a_prior_with_weights_is_put_in_eval_mode():
    gan = made(nn.Dropout(0.5))
    assert not gan.prior.training
    assert torch.equal(ops.latents(gan, Rng(0), 9), ops.normal(Rng(0), 9, 3))
