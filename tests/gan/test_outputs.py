"""What the user's functions return or raise: right samples, or an error that says what to do."""

import warnings

import pytest
import torch
from networks import networks
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

import drs_fast as drs
from drs_fast import GAN, Rng, ops
from drs_fast.cli import main as cli


def latents(n=600):
    return ops.normal(Rng(3), n, 2)


def made(generator, discriminator=lambda x: x[:, 0].float(), **settings):
    return GAN(generator, discriminator, 2, block=256, **settings)


class Changing:
    """z, in which `change` changes the blocks after the first `same`."""

    def __init__(self, change, same=1):
        self.change, self.same, self.calls = change, same, 0

    def __call__(self, z):
        self.calls += 1
        return z.clone() if self.calls <= self.same else self.change(z)


CHANGES = {
    "one column": (
        lambda z: z[:, :1],
        r"\(1,\) float32 from row 512 on, and before that \(2,\) float32",
    ),
    "more columns": (
        lambda z: z.repeat(1, 2),
        r"\(4,\) float32 from row 512 on, and before that \(2,\)",
    ),
    "more dimensions": (
        lambda z: z[:, None],
        r"\(1, 2\) float32 from row 512 on, and before that \(2,\)",
    ),
    "int32": (
        lambda z: z.int(),
        r"\(2,\) int32 from row 512 on, and before that \(2,\) float32",
    ),
    "float64": (
        lambda z: z.double(),
        r"\(2,\) float64 from row 512 on, and before that \(2,\) float32",
    ),
}


@pytest.mark.parametrize("method", ["logits", "samples", "gradients"])
@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_blocks_that_differ_are_refused(change, message, method):
    gan = made(Changing(change, same=2), lambda x: x.flatten(1)[:, 0].float())
    with pytest.raises(ValueError, match=message):
        getattr(gan, method)(latents())


def test_a_first_block_of_integers_truncates_no_other():
    """Without the check, all would silently become integers."""
    calls = []

    def generator(z):
        calls.append(len(z))
        return z.int() if len(calls) == 1 else z

    with pytest.raises(ValueError, match=r"float32 .*, and before that .* int32"):
        made(generator).samples(latents())


def test_calls_that_differ_are_refused_until_the_gan_is_told():
    gan = made(Changing(lambda z: z.double()))
    gan.samples(latents(5))
    for copy in (gan, gan.judged(link="kl"), gan.labelled(None)):
        with pytest.raises(ValueError, match=r"if you changed the generator itself, use gan.on"):
            copy.logits(latents(5))
    assert gan.on().samples(latents(5)).dtype == torch.float64


@pytest.mark.parametrize("n", [256, 600])
@pytest.mark.parametrize(
    "sampler", [drs.samplers.DRS(), drs.samplers.MH(chain_length=4, start="first")]
)
def test_runs_with_blocks_that_differ_end(sampler, n, tmp_path):
    def gan():
        return made(Changing(lambda z: z[:, :1], same=45), lambda x: x[:, 0])

    for settings in ({}, {"out": tmp_path / "run"}):
        with pytest.raises(
            ValueError,
            match=r"got \(1,\) float32 (from row [0-9]+ on|in this call), and before that \(2,\)",
        ):
            drs.generate(gan(), sampler, 20_000, batch_size=n, **settings)
    with pytest.raises(
        ValueError,
        match=r"got \(1,\) float32 (from row [0-9]+ on|in this call), and before that \(2,\)",
    ):
        for _ in drs.stream(gan(), sampler, batch_size=n):
            pass


class Narrow(drs.samplers.MH):
    """A custom sampler that loses a column after its first step."""

    def step(self, gan, state, z, y, rng):
        state, batch = super().step(gan, state, z, y, rng)
        x = batch.x if rng.row == 0 else batch.x[:, :1]
        return state, drs.Batch(x, batch.z, y, batch.logit, batch.ids, batch.count, batch.stats)


def test_steps_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"Narrow must return x like \(1, 2\) .*got \(64, 1\)"):
        drs.generate(made(torch.clone), Narrow(chain_length=4, start="first"), 200, batch_size=256)


class Tagged(torch.Tensor):
    """A subclass like torchvision's."""


def static(first, second):
    """Networks that return a view of the same memory every time."""
    x, logit = torch.empty(300, 3), torch.empty(300, 1)

    def generator(z):
        return x[: len(z)].copy_(first(z))

    def discriminator(rows):
        return logit[: len(rows)].copy_(second(rows))

    return generator, discriminator


def held(function):
    """What it returns is a parameter, which takes gradients."""
    return lambda rows: nn.Parameter(function(rows).clone())


def outside_inference(function):
    def called(rows):
        with torch.inference_mode(False), torch.enable_grad():
            return function(rows.clone())

    return called


def negated(rows):
    """The same numbers, by a view that changes the sign of those in memory."""
    return torch.complex(rows, -rows).conj().imag


USUAL = {
    "subclass": lambda g, d: (
        lambda z: g(z).as_subclass(Tagged),
        lambda x: d(x).as_subclass(Tagged),
    ),
    "parameter": lambda g, d: (held(g), held(d)),
    "takes gradients": lambda g, d: (outside_inference(g), outside_inference(d)),
    "static memory": static,
    "column-major": lambda g, d: (lambda z: g(z).T.contiguous().T, lambda x: d(x).T.contiguous().T),
    "every other": lambda g, d: (
        lambda z: g(z).repeat_interleave(2, dim=1)[:, ::2],
        lambda x: d(x).repeat(1, 2)[:, 1:],
    ),
    "negative bit": lambda g, d: (lambda z: negated(g(z)), lambda x: negated(d(x))),
    "inference tensors": lambda g, d: (
        torch.inference_mode()(lambda z: g(z)),
        torch.inference_mode()(lambda x: d(x)),
    ),
}


@pytest.mark.parametrize("n", [1, 256, 600])
@pytest.mark.parametrize("kind", USUAL)
def test_unusual_tensors_give_the_usual_samples(kind, n):
    generator, discriminator = networks()
    expected = GAN(generator, discriminator, 2, block=256).logits(latents(n))
    gan = GAN(*USUAL[kind](generator, discriminator), 2, block=256)
    found = gan.logits(latents(n))
    for ours, theirs in zip(found, expected, strict=True):
        assert type(ours) is torch.Tensor
        assert ours.is_contiguous()
        assert not ours.is_inference()
        assert not ours.requires_grad
        assert not ours.is_neg()
        assert torch.equal(ours, theirs)
    assert torch.equal(gan.samples(latents(n)), expected[0])
    assert torch.equal(gan.scores(expected[0]), expected[1])
    again = gan.logits(latents(n) + 1.0)
    assert torch.equal(found[0], expected[0])  # it is a copy
    assert not torch.equal(again[0], expected[0])


def nested(rows):
    return torch.nested.nested_tensor([*rows], layout=torch.strided)


EXOTIC = {
    "sparse": (torch.Tensor.to_sparse, "sparse_coo"),
    "compressed": (torch.Tensor.to_sparse_csr, "sparse_csr"),
    "nested": (nested, "a nested .*float32"),
    "jagged": (lambda x: torch.nested.nested_tensor([*x], layout=torch.jagged), "a nested"),
    "quantized": (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8), "quint8"),
    "mkldnn": (torch.Tensor.to_mkldnn, "mkldnn"),
    "meta": (lambda x: x.to("meta"), "on meta"),
    "wrapped": (lambda x: TwoTensor(x.clone(), x.clone()), "TwoTensor"),
}


@pytest.mark.parametrize(("change", "seen"), EXOTIC.values(), ids=EXOTIC)
def test_exotic_tensors_are_refused(change, seen):
    message = f"must return a dense tensor of numbers, got .*{seen}.*; .* (makes one|plain tensor)"
    x = latents(5)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=f"generator {message}"):
            made(change).samples(x)
        column = made(torch.clone, lambda x: change(x[:, :1].clone()))
        with pytest.raises(ValueError, match=f"discriminator {message}"):
            column.logits(x)
        with pytest.raises(ValueError, match=f"link {message}"):
            made(torch.clone, link=lambda score: change(score[:, None])).scores(x)
        exotic = change(x.clone())
        with pytest.raises(ValueError, match=f"x must be a dense tensor of numbers, .*{seen}"):
            made(torch.clone).scores(exotic)
        with pytest.raises(ValueError, match=f"real must .*, got .*{seen}"):
            made(torch.clone, real=lambda n: exotic).real_samples(5)


@pytest.mark.parametrize(
    ("critic", "seen"),
    [
        (lambda x: x[:, 0] > 0, "bool.*; return real numbers"),
        (lambda x: x[:, :1].int(), r"\(128, 1\) int32.*; return real numbers"),
        (lambda x: x[:, 0].to(torch.complex64), "complex64.*; return real numbers"),
        (lambda x: x, r'\(128, 2\) float32.*; drs.wrap\(D, reduce="mean"\)$'),
        (lambda x: x.sum(), r"\(\) float32.*; return a number for each row of its input"),
        (lambda x: x[1:, 0], r"\(127,\) float32.*; return a number for each row of its input"),
        (lambda x: None, r"NoneType.*; choose what counts of it: drs.wrap\(D, output=lambda"),
    ],
)
def test_what_is_no_logit(critic, seen):
    for gan in (made(torch.clone, critic), made(torch.clone, lambda x: [critic(x), 1])):
        with pytest.raises(ValueError, match=f"discriminator must return one .*got .*{seen}"):
            gan.logits(latents(5))
    linked = made(torch.clone, link=lambda score: critic(score[:, None].repeat(1, 2)))
    seen = seen.partition(".*; ")[0]
    with pytest.raises(ValueError, match=f"link must return one .*got .*{seen}.*; (a|return) "):
        linked.logits(latents(5))


def test_logits_may_be_of_any_floating_dtype_in_any_block():
    dtypes = iter([torch.float64, torch.bfloat16, torch.float16])
    gan = made(torch.clone, lambda x: x[:, :1].round().to(next(dtypes)))
    x, logit = gan.logits(latents())
    assert logit.dtype == torch.float32
    assert torch.equal(logit, x[:, 0].round())


def raising(error):
    def function(*given):
        raise error

    return function


CALLS = {
    "link": lambda gan: gan.logits(latents(3)),
    "prior": lambda gan: ops.latents(gan, Rng(0), 3),
    "real": lambda gan: gan.real_samples(7),
}
ADVICE = {
    "link": r"link failed on \(128,\) float32 .*: TypeError: ema; a link maps scores",
    "prior": r"prior failed on \(256, 2\) float32: TypeError: ema; a prior maps normals",
    "real": r"real failed on 7: TypeError: ema; real maps n to samples",
}


@pytest.mark.parametrize("role", CALLS)
def test_whatever_a_function_raises_names_it(role):
    error = TypeError("ema")
    with pytest.raises(ValueError, match=ADVICE[role]) as caught:
        CALLS[role](made(torch.clone, **{role: raising(error)}))
    assert caught.value.__cause__ is error
    with pytest.raises(ValueError, match=f"{role} failed on .*: OSError: not mounted$"):
        CALLS[role](made(torch.clone, **{role: raising(OSError("not mounted"))}))


LEARNT = {
    "calibrate": lambda gan: drs.calibrate(gan, n=100),
    "relativistic": lambda gan: drs.relativistic(gan, "RaSGAN", n=100),
    "density_ratio": lambda gan: drs.density_ratio(gan, lambda x: x, samples=400, penalty=0.1),
    "keep_train": lambda gan: drs.keep_train(gan, whole=True, samples=400),
    "contrastive": lambda gan: drs.contrastive(gan, steps=1, batch=16),
    "latent_weights": lambda gan: drs.latent_weights(
        gan, "ratio" if callable(gan.link) else "wasserstein", steps=1, batch=16
    ),
    "doctor": lambda gan: drs.doctor(gan, n=512),
}


@pytest.mark.parametrize("role", CALLS)
@pytest.mark.parametrize("name", LEARNT)
def test_what_learns_from_a_gan_says_so_too(name, role):
    given = {"real": torch.randn(400, 2, generator=torch.Generator().manual_seed(0))}
    gan = made(nn.Linear(2, 2), nn.Linear(2, 1), **given | {role: raising(KeyError("ema"))})
    if name == "doctor":  # which is there to find it
        diagnosis = LEARNT[name](gan)
        said = str(diagnosis) if role == "real" else diagnosis.findings[0].seen
        assert f"{role} failed on" in said
        return
    with pytest.raises(ValueError, match=r"failed on .* KeyError: 'ema'"):
        LEARNT[name](gan)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), MemoryError(), KeyboardInterrupt()]
)
@pytest.mark.parametrize("role", CALLS)
def test_what_is_no_fault_of_a_function_goes_through(role, error):
    with pytest.raises(type(error)):
        CALLS[role](made(torch.clone, **{role: raising(error)}))


def test_a_link_does_not_run_under_autocast():
    seen = []

    def link(score):
        seen.append(torch.is_autocast_enabled("cpu"))
        return score

    made(nn.Linear(2, 2), link=link).on(precision="bf16").logits(latents(3))
    assert seen == [False]


MODEL = """
import torch
import drs_fast as drs

def fail(*given):
    raise KeyError("ema")

def gan():
    return drs.GAN(torch.clone, lambda x: x[:, 0], 2, {role}=fail)
"""


@pytest.mark.parametrize("role", CALLS)
def test_the_command_line_says_so_in_one_line(role, tmp_path, capsys):
    (tmp_path / "model.py").write_text(MODEL.format(role=role))
    sampler = ["--sampler", "mh"] if role == "real" else []
    run = ["generate", f"{tmp_path}/model.py:gan", "-n", "5", "--out", f"{tmp_path}/run", "--quiet"]
    assert cli.main([*run, *sampler]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"drs-fast: {role} failed on ")
    assert "KeyError: 'ema'" in said[0]


def test_real_samples_that_become_fewer_or_others():
    def gan(then):
        first = iter([torch.randn(50, 2, generator=torch.Generator().manual_seed(0))])
        critic = lambda x: torch.full_like(x[:, 0], -9.0).where(x[:, 0] == x[:, 1], 9.0)  # noqa: E731
        return made(lambda z: z[:, :1].repeat(1, 2), critic, real=lambda n: next(first, then))

    sampler = drs.samplers.MH(chain_length=4, burn_in=64)
    with pytest.raises(ValueError, match="on every call, got 3, fewer than before"):
        drs.generate(gan(torch.zeros(3, 2)), sampler, 50, batch_size=256)
    with pytest.raises(ValueError, match="real samples must be like generated ones"):
        drs.generate(gan(torch.zeros(50, 1)), sampler, 50, batch_size=256)
