"""What fp32 means, and the other precisions."""

import pytest
import torch
from runs import QUICK, toy
from torch import nn

import drs_fast as drs
from drs_fast.gan import precision
from drs_fast.gan.precision import AUTOCAST, arithmetic

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def switches():
    """What says how a GPU multiplies float32 numbers; put back at the end."""
    found = precision._switches("cuda")
    before = [precision._read(switch) for switch in found]
    yield lambda: [precision._read(switch) for switch in found]
    for switch, value in zip(found, before, strict=True):
        precision._write(switch, value)


@pytest.mark.parametrize(("name", "wanted"), [("fp32", "ieee"), ("bf16", "ieee"), ("tf32", "tf32")])
@pytest.mark.parametrize("set_by_user", ["ieee", "tf32"])
def test_a_gpu_multiplies_as_the_precision_says_whatever_the_process_has_set(
    switches, name, wanted, set_by_user
):
    for switch in precision._switches("cuda"):
        precision._write(switch, set_by_user)
    with arithmetic(name, GPU):
        assert set(switches()) == {wanted}
    assert set(switches()) == {set_by_user}


def test_the_switches_are_put_back_after_an_error(switches):
    for switch in precision._switches("cuda"):
        precision._write(switch, "tf32")
    with pytest.raises(KeyError), arithmetic("fp32", GPU):
        raise KeyError
    assert set(switches()) == {"tf32"}


@pytest.mark.skipif(not precision.NAMED, reason="an older PyTorch has no such switch for CPUs")
def test_a_cpu_too_multiplies_float32_as_float32():
    seen = []

    def generator(z):
        seen.append(torch.backends.mkldnn.matmul.fp32_precision)
        return z

    gan = drs.GAN(generator, nn.Linear(2, 1), 2)
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        gan.logits(torch.zeros(3, 2))
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before
    assert seen == ["ieee"]


def test_gradients_are_computed_in_the_same_arithmetic():
    seen = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.clone()

        @staticmethod
        def backward(context, gradient):
            seen.append(torch.backends.mkldnn.matmul.fp32_precision)
            return gradient

    gan = drs.GAN(Watched.apply, nn.Linear(2, 1), 2)
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        gan.gradients(torch.zeros(3, 2))
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before
    assert seen == ["ieee"]


@pytest.mark.parametrize("name", AUTOCAST)
def test_half_precision_runs_under_autocast_and_says_what_it_changes(name, tmp_path):
    seen = []

    class Network(nn.Linear):
        def forward(self, x):
            made = super().forward(x)
            seen.append(made.dtype)
            return made

    gan = drs.GAN(Network(2, 2), nn.Linear(2, 1), 2)
    out = tmp_path / "run"
    run = drs.generate(gan, QUICK, 200, precision=name, batch_size=256, out=out)
    assert AUTOCAST[name] in seen
    assert run.logit[:].dtype == torch.float32
    assert run.manifest["precision"] == name
    assert 0.0 <= run.manifest["flip_rate"] < 0.2


def test_another_precision_is_another_run(tmp_path):
    drs.generate(toy(), QUICK, 50, batch_size=256, out=tmp_path / "run")
    with pytest.raises(drs.Conflict, match='precision: there "fp32", here "bf16"'):
        drs.generate(toy(), QUICK, 50, precision="bf16", batch_size=256, out=tmp_path / "run")


def test_tf32_takes_a_gpu_that_has_it(monkeypatch):
    with pytest.raises(ValueError, match=r"tf32' needs an NVIDIA GPU of compute capability 8"):
        drs.generate(toy(), QUICK, 50, precision="tf32")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(ValueError, match="got cuda; use 'fp32'"):
        precision.check("tf32", GPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    precision.check("tf32", GPU)
    with pytest.raises(ValueError, match=r"precision must be one of \('fp32', 'tf32', 'bf16', 'f"):
        toy().on(precision="half")


def test_what_was_made_in_tf32_is_made_again_in_fp32_where_there_is_none():
    assert precision.nearest("tf32", CPU) == "fp32"
    assert precision.nearest("bf16", CPU) == "bf16"
