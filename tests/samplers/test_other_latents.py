"""Priors with other walls, truncation, latents of another shape, and lost discriminators."""

import math

import pytest
import torch
from linear_gaussian import gan, steps
from torch import nn

import drs_fast as drs
from drs_fast import ops
from drs_fast.samplers.collaborative import Collaborative
from drs_fast.samplers.common import moving
from drs_fast.samplers.dcd import DCD
from drs_fast.samplers.ddls import DDLS
from drs_fast.samplers.dgflow import DGFlow
from drs_fast.samplers.dot import DOT
from drs_fast.samplers.drs import DRS
from drs_fast.samplers.ex2mcmc import Ex2MCMC
from drs_fast.samplers.latent import Latent
from drs_fast.tune import tuning

WALLS = {"uniform01": ({"prior": "uniform01"}, 0.0, 1.0), "0.3": ({"truncation": 0.3}, -0.6, 0.6)}
KINDS = ({"kind": "mala"}, {"kind": "ula"}, {"kind": "underdamped"}, {"kind": "hmc", "leapfrog": 2})
MOVERS = [
    *(DDLS(steps=10, step_size=0.02, **kind) for kind in KINDS),
    DOT(steps=5),
    DCD(space="latent", steps=5),
    DGFlow(steps=5),
    Ex2MCMC(burn_in=256),
]


def judged(**options):
    """Logits that push every latent beyond the upper wall."""
    return drs.GAN(torch.clone, lambda x: 40.0 * x.sum(dim=1), 2, block=256, **options)


def test_uniform01_is_the_uniform_moved_and_halved():
    rng, n = drs.Rng(7), 20_000
    u = ops.latents(judged(prior="uniform01"), rng, n)
    symmetric = ops.latents(judged(prior="uniform"), rng, n)
    assert torch.equal(u.double(), (symmetric.double() + 1.0) / 2.0)
    assert 0.0 <= float(u.min()) < 1e-3
    assert 1.0 - 1e-3 < float(u.max()) < 1.0
    assert abs(float(u.mean()) - 0.5) < 5 / math.sqrt(12 * 2 * n)
    for name in ("reference", "cpu", "triton"):
        with drs.backend(name):
            assert torch.equal(ops.latents(judged(prior="uniform01"), rng, 600), u[:600])
    ids = torch.tensor([5, 19_999, 0])
    assert torch.equal(ops.latents(judged(prior="uniform01"), rng, 3, ids=ids), u[ids])


def test_truncation_multiplies_a_truncated_normal():
    rng = drs.Rng(7)
    whole = ops.latents(judged(prior="truncated normal"), rng, 5000)
    assert torch.equal(ops.latents(judged(truncation=0.5), rng, 5000), whole * 0.5)
    assert torch.equal(ops.latents(judged(truncation=1.0), rng, 5000), whole)
    shas = [judged(truncation=t).sha256() for t in (0.5, 0.4, 1.0)]
    assert len(set(shas)) == 3
    assert shas[2] == judged(prior="truncated normal").sha256() != judged().sha256()
    assert "truncated normal x 0.5" in repr(judged(truncation=0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncation": 2.0}, r"truncation must be .* at most 1, got 2.0: it multiplies normals"),
        ({"truncation": 0}, "truncation must be greater than 0"),
        ({"truncation": 0.5, "prior": "uniform"}, "truncation is of a normal prior"),
        ({"prior": "uniform02"}, "prior must be one of .*uniform01"),
    ],
)
def test_priors_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        judged(**options)


@pytest.mark.filterwarnings("ignore:.* accepts .* of its moves")
@pytest.mark.parametrize(
    "sampler", MOVERS, ids=lambda s: f"{type(s).__name__}{vars(s).get('kind')}"
)
@pytest.mark.parametrize(("options", "low", "high"), WALLS.values(), ids=WALLS)
def test_no_latent_leaves_the_walls(sampler, options, low, high):
    batch = drs.generate(judged(**options), sampler, 300, batch_size=256)
    z = batch.z.double()
    assert low <= float(z.min())
    assert float(z.max()) <= high + 1e-7
    if not isinstance(sampler, DGFlow):  # whose steps are far larger than this box
        assert float(z.max()) > low + 0.9 * (high - low)  # it reached the upper wall


def moments(low, high, precision, centre=0.0, count=200_001):
    """Mean and mean square between walls under exp(-precision z^2 / 2), and their sds."""
    grid = torch.linspace(low, high, count, dtype=torch.float64)
    weight = (-precision / 2 * grid.square()).exp()
    first, second, fourth = ((weight * grid**k).sum() / weight.sum() for k in (1, 2, 4))
    return float(first), float(second), float(second - first**2), float(fourth - second**2)


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[3]], ids=["mala", "hmc"])
@pytest.mark.parametrize(
    ("options", "low", "high", "precision"),
    [({"prior": "uniform01"}, 0.0, 1.0, 0.0), ({"truncation": 0.5}, -1.0, 1.0, 4.0)],
    ids=["uniform01", "truncation"],
)
def test_chains_follow_the_law_between_the_walls(kind, options, low, high, precision):
    """The critic adds -1.5 z^2 to the prior's log density."""
    model = drs.GAN(torch.clone, lambda x: -1.5 * x[:, 0].square(), 1, block=1024, **options)
    sampler = DDLS(steps=60, step_size=0.1, **kind)
    z = steps(sampler, model, 2**14).z.double()
    first, second, *variances = moments(low, high, precision + 3.0)
    for found, expected, variance in zip(
        (z.mean(), z.square().mean()), (first, second), variances, strict=True
    ):
        assert abs(float(found) - expected) < 5 * math.sqrt(variance / len(z))


def test_reflection_about_another_centre():
    z = torch.tensor([[0.2, 1.25, -0.5, 2.0, 1.0]])
    expected = torch.tensor([[0.2, 0.75, 0.5, 0.0, 1.0]])
    assert torch.allclose(moving.reflected(z, 0.5, 0.5), expected)
    there, velocity = moving.bounced(z, torch.ones_like(z), 0.5, 0.5)
    assert torch.equal(there, moving.reflected(z, 0.5, 0.5))
    assert velocity.tolist() == [[1.0, -1.0, -1.0, -1.0, 1.0]]
    usual = moving.prior(gan(1, prior="truncated normal"))
    assert moving.prior(judged(truncation=0.5)) == usual._replace(precision=4.0, box=1.0)


def test_truncated_runs_resume_and_are_another_model(tmp_path):
    model, sampler = judged(truncation=0.5), DRS(burn_in=512)
    for n in (20, 200):
        run = drs.generate(model, sampler, n, out=tmp_path, batch_size=256, chunk_rows=512)
    assert torch.equal(run.ids[:], drs.generate(model, sampler, 200, batch_size=256).ids)
    for other in (judged(truncation=0.4), judged(prior="truncated normal")):
        with pytest.raises(drs.Conflict, match="another model"):
            drs.generate(other, sampler, 300, out=tmp_path, batch_size=256, chunk_rows=512)
    state = Latent(critic=lambda z: z.square().sum(1), burn_in=1024).init(model, drs.Rng(0))
    assert 1.0 < float(state.cap) <= 2.0
    found = drs.generate(model, Latent(critic=lambda z: -z.square().sum(1), burn_in=1024), 50)
    assert float(found.z.abs().max()) <= 1.0


class Transposed(nn.Module):
    """A generator of images that takes (n, 4, 1, 1), and again in a later part."""

    def __init__(self):
        super().__init__()
        self.first = nn.ConvTranspose2d(4, 6, 2, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.last = nn.Conv2d(6, 1, 1)

    def forward(self, z):
        return self.last(self.norm(self.first(z)).tanh()) + z.mean(dim=1, keepdim=True)


def flat(z):
    return z.view(len(z), 4, 1, 1)


def pair():
    """The same GAN, told by latent_shape, and with a view of its own."""
    generator, critic = Transposed(), nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
    real = drs.ops.normal(drs.Rng(3), 400, 4).view(-1, 1, 2, 2)
    own = nn.Sequential(nn.Unflatten(1, (4, 1, 1)), generator)
    shaped = drs.GAN(generator, critic, latent_shape=(4, 1, 1), block=256, real=real)
    return shaped, drs.GAN(own, critic, 4, block=256, real=real)


@pytest.mark.filterwarnings("ignore:calibrated by", "ignore:too little was learned")
def test_latents_of_another_shape_give_what_a_view_gives(tmp_path):
    shaped, viewed = pair()
    for sampler in (
        DRS(burn_in=512),
        DDLS(steps=2, step_size=0.05),
        Latent(critic=lambda z: -z.square().sum(1), burn_in=1024),
    ):
        one, other = (drs.generate(each, sampler, 60, batch_size=256) for each in (shaped, viewed))
        assert torch.equal(one.ids, other.ids)
        assert torch.equal(one.x, other.x)
        assert one.z.shape == (60, 4)
    names = {shaped: "norm", viewed: "1.norm"}
    ends = [
        drs.generate(each, Collaborative(layer=name, steps=3, burn_in=256), 40, batch_size=256).x
        for each, name in names.items()
    ]
    assert torch.equal(*ends)
    for variant in ("fold", "channels_last"):
        tuned = tuning.applied(shaped, (variant,))
        z = ops.latents(shaped, drs.Rng(1), 256)
        assert torch.allclose(tuned.logits(z)[1], shaped.logits(z)[1], atol=1e-5)
    saved = drs.generate(
        shaped, DRS(burn_in=512), 50, out=tmp_path, save=("logit",), batch_size=256
    )
    made = saved.materialize(shaped)
    assert torch.equal(made[:]["x"], drs.generate(shaped, DRS(burn_in=512), 50, batch_size=256).x)
    assert "fails" not in drs.doctor(shaped, n=512).codes
    assert len(drs.generate(drs.calibrate(shaped, n=400), DRS(burn_in=512), 9).x) == 9


@pytest.mark.slow
def test_bounds_take_latents_as_vectors():
    squeezed = drs.Squeeze(DRS(gamma=0.0, burn_in=1024), use_bound=True)
    one, other = (drs.generate(each, squeezed, 60, batch_size=256) for each in pair())
    assert torch.equal(one.ids, other.ids)
    assert torch.equal(one.x, other.x)


LOST = {
    "generate": lambda gan, path: drs.generate(gan, DRS(), 5),
    "generate out": lambda gan, path: drs.generate(gan, DRS(), 5, out=path),
    "stream": lambda gan, path: next(drs.stream(gan, DRS())),
    "squeeze": lambda gan, path: drs.generate(gan, drs.Squeeze(DRS()), 5),
    "tune": lambda gan, path: drs.generate(gan, DRS(), 5, tune="fold"),
    "plan": lambda gan, path: drs.plan(gan),
    "calibrate": lambda gan, path: drs.calibrate(gan, n=400),
    "keep_train": lambda gan, path: drs.keep_train(gan, samples=400),
    "whole": lambda gan, path: drs.keep_train(gan, whole=True, samples=400),
    "contrastive": lambda gan, path: drs.contrastive(gan, steps=1, batch=16),
    "relativistic": lambda gan, path: drs.relativistic(gan, "RaSGAN", n=100),
    "latent_weights": lambda gan, path: drs.latent_weights(gan),
    "logits": lambda gan, path: gan.logits(torch.zeros(2, 2)),
}


@pytest.mark.parametrize("call", LOST.values(), ids=LOST)
def test_a_lost_discriminator_is_told_with_the_remedy(call, tmp_path):
    model = drs.GAN(nn.Linear(2, 2), None, 2, real=torch.randn(400, 2), block=256)
    with pytest.raises(ValueError, match=r"^this GAN has no discriminator; make one .*density_rat"):
        call(model, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:too little was learned")
def test_a_lost_discriminator_is_made():
    model = drs.GAN(nn.Linear(2, 2), None, 2, real=drs.ops.normal(drs.Rng(1), 400, 2), block=256)
    assert drs.doctor(model, n=512).codes == ("no-discriminator",)
    made = (
        drs.density_ratio(model, samples=400, epochs=1, penalty=0.1),
        drs.keep_train(model, features=lambda x: x, samples=400, max_steps=50),
    )
    for one in made:
        assert len(drs.generate(one, DRS(burn_in=512), 9, batch_size=256).x) == 9


class Auxiliary(nn.Module):
    """A critic or a classifier."""

    def __init__(self, out):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, out))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.filterwarnings("ignore:calibrated by", "ignore:too little was learned")
def test_an_auxiliary_classifier(tmp_path):
    critic, classifier = Auxiliary(1), Auxiliary(3)
    y = torch.arange(400) % 3
    model = drs.GAN(
        lambda z, y: z + y[:, None], critic, 2, labels=3, classifier=classifier, link="logit",
        real=(drs.ops.normal(drs.Rng(1), 400, 2) + y[:, None], y), block=256,
    )  # fmt: skip
    x, label = drs.ops.normal(drs.Rng(2), 300, 2), torch.arange(300) % 3
    with torch.no_grad():
        score, classes = critic(x)[:, 0].double(), classifier(x).double()
    expected = score + classes[torch.arange(300), label] - classes.exp().sum(dim=1).log()
    assert torch.allclose(model.scores(x, label).double(), expected, atol=1e-5)
    probability = drs.GAN(
        lambda z, y: z, lambda x: critic(x).sigmoid(), 2, labels=3, classifier=classifier,
        link="probability", block=256,
    )  # fmt: skip
    assert torch.allclose(probability.scores(x, label).double(), expected, atol=1e-4)
    for one in (
        model,
        drs.keep_train(model, samples=400, max_steps=20),
        drs.keep_train(model, whole=True, samples=400, max_steps=20),
        drs.calibrate(model, n=400),
        tuning.applied(model.judged(model.discriminator), ()),
    ):
        assert len(drs.generate(one, DRS(burn_in=512), 9, batch_size=256).x) == 9
    assert "fails" not in drs.doctor(model, n=512).codes
    for n in (9, 30):
        run = drs.generate(model, DRS(burn_in=512), n, out=tmp_path, batch_size=256)
    assert len(run) == 30
    wrong = drs.GAN(lambda z, y: z, critic, 2, labels=4, classifier=classifier, block=256)
    with pytest.raises(ValueError, match=r"classifier must return logits \(128, 4\)"):
        wrong.row()
    patches = drs.GAN(
        lambda z, y: z, lambda x: x[:, :, None], 2, labels=3, classifier=classifier, block=256
    )
    with pytest.raises(ValueError, match=r"^discriminator must return .*; drs.wrap\(D, reduce="):
        patches.row()
