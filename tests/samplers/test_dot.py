"""DOT: the effective Lipschitz constant, single moves written out, and where descent ends."""

import math

import pytest
import torch
from linear_gaussian import curved, cut, gan, same, steps

import drs_fast as drs
from drs_fast.core import BURN_IN_ROW, BadLogits
from drs_fast.samplers import dot
from drs_fast.samplers.common import moving
from drs_fast.samplers.dot import DOT

SLOPE = torch.tensor([1.5, -2.0, 0.5])


def linear(scale=1.0, **fields):
    """G doubles and the critic is linear: its slope is SLOPE in x and 2 SLOPE in z."""
    return drs.GAN(lambda z: 2 * z, lambda x: scale * (x * SLOPE).sum(dim=1), 3, **fields)


@pytest.mark.parametrize("space", ["latent", "sample"])
def test_lipschitz_constant_of_generated_pairs(space):
    """As the released code computes it."""
    model = linear()
    z = drs.ops.latents(model, drs.Rng(5, BURN_IN_ROW), 60)
    x, logit = model.logits(z)
    points = z if space == "latent" else x
    ratios = [
        abs(float(logit[i]) - float(logit[i + 1])) / float((points[i] - points[i + 1]).norm())
        for i in range(0, 60, 2)
    ]
    found = DOT(space=space, burn_in=60, lipschitz="pairs").init(model, drs.Rng(5)).lipschitz
    assert float(found) == pytest.approx(max(ratios), rel=1e-5)
    assert float(found) <= float(SLOPE.norm()) * (2 if space == "latent" else 1)


def test_lipschitz_constant_on_a_line_is_exact():
    model = drs.GAN(lambda z: 4 * z, lambda x: -0.5 * x[:, 0], 1)
    latent, sample = (
        DOT(space=space).init(model, drs.Rng(0)).lipschitz for space in ("latent", "sample")
    )
    assert float(latent) == pytest.approx(2.0, rel=1e-5)
    assert float(sample) == pytest.approx(0.5, rel=1e-5)


def steep(x):
    """Slope 20 for x_0 in (1, 1.05), a share of .012, and slope 1 elsewhere."""
    return x[:, 0] + 19 * (x[:, 0] - 1).clamp(0, 0.05)


@pytest.mark.parametrize("space", ["latent", "sample"])
@pytest.mark.parametrize(
    "critic", [steep, lambda x: (20 * x[:, 0]).tanh()], ids=["narrow", "saturated"]
)
def test_a_steep_critic_is_seen(critic, space):
    """None of 1,000 samples is in the narrow region for one seed in 10^5."""
    model = drs.GAN(lambda z: 2 * z, lambda x: critic(x / 2), 8)
    slope = 20 if space == "latent" else 10
    for seed in range(5):
        found, pairs = (
            float(DOT(space=space, lipschitz=lipschitz).init(model, drs.Rng(seed)).lipschitz)
            for lipschitz in ("steepest", "pairs")
        )
        assert found == pytest.approx(slope, rel=0.05)
        assert pairs < slope / 5


def test_where_the_constant_is_right_samples_stay():
    """|p - start| - logit / constant then has its minimum at the start; a smaller one moves all

    samples whose slope exceeds it, here 9 % of 400.
    """
    model = drs.GAN(torch.clone, lambda x: (20 * x[:, 0]).tanh(), 8)
    sgd = {"optimiser": "sgd", "project": "none", "step_size": 1e-4}
    gone = []
    for lipschitz in ("steepest", "pairs"):
        start, end, _ = moved(DOT(lipschitz=lipschitz, **sgd), model)
        gone.append(int(((end - start).norm(dim=1) > 0.005).sum()))
    assert gone[0] <= 5
    assert gone[1] >= 20


def test_a_jump_without_a_gradient_is_seen_by_pairs():
    """The gradient is about 1e-6 at every sample."""
    model = drs.GAN(torch.clone, lambda x: (1e9 * x[:, 0]).tanh() + 1e-6 * x[:, 0], 1)
    assert float(DOT().init(model, drs.Rng(0)).lipschitz) > 1.0


def test_a_pair_has_one_label():
    model = drs.GAN(lambda z, y: z, lambda x, y: 2 * x[:, 0] + 100.0 * y, 1, labels=3)
    assert float(DOT().init(model, drs.Rng(0)).lipschitz) == pytest.approx(2.0, rel=1e-3)


def test_a_constant_critic_is_refused():
    with pytest.raises(BadLogits, match="constant"):
        DOT().init(linear(0.0), drs.Rng(0))


def moved(sampler, model, n=400, seed=0):
    """Starts and ends in the sampler's space, and the Lipschitz constant."""
    z = drs.ops.latents(model, drs.Rng(seed), n)
    batch = steps(sampler, model, n, seed)
    constant = float(sampler.init(model, drs.Rng(seed)).lipschitz)
    latent = sampler.space == "latent"
    return (z, batch.z, constant) if latent else (model.logits(z)[0], batch.x, constant)


@pytest.mark.parametrize("space", ["latent", "sample"])
def test_one_move_of_plain_descent(space):
    """At the start the distance has no slope, so the move is the critic's over the constant."""
    sampler = DOT(space=space, optimiser="sgd", project="none", steps=1, step_size=0.25)
    start, end, constant = moved(sampler, linear())
    slope = SLOPE * (2 if space == "latent" else 1)
    assert torch.allclose(end - start, (0.25 / constant * slope).expand_as(start), atol=1e-6)


def test_one_move_of_adam():
    sampler = DOT(space="sample", steps=1, step_size=0.25)
    start, end, _ = moved(sampler, linear())
    assert torch.allclose(end - start, 0.25 * SLOPE.sign().expand_as(start), atol=1e-5)


@pytest.mark.parametrize("space", ["latent", "sample"])
def test_displacement_under_a_linear_critic(space):
    """The distance's slope is |p - start| / sqrt(|p - start|^2 + delta^2) = 1 far away; descent

    ends where that is the critic's slope over the constant, if the constant is larger.
    """
    delta = 0.5
    sampler = DOT(
        space=space, optimiser="sgd", project="none", steps=400, step_size=0.1, delta=delta
    )
    model, slope = linear(), SLOPE.norm() * (2 if space == "latent" else 1)
    constant = 1.25 * float(slope)
    z = drs.ops.latents(model, drs.Rng(0), 300)
    state = sampler.State(torch.tensor(constant, dtype=torch.float64), torch.tensor(1.0))
    _, batch = sampler.step(model, state, z, None, drs.Rng(0))
    move = batch.z - z if space == "latent" else batch.x - 2 * z
    length = delta * 0.8 / math.sqrt(1 - 0.8**2)
    assert torch.allclose(move, (length * SLOPE / SLOPE.norm()).expand_as(move), atol=1e-4)
    assert torch.equal(batch.z, z) == (space == "sample")


def distances_of_the_batch(values):
    return ROW_SUM(values).sum().expand(len(values))


ROW_SUM = moving.row_sum


def test_every_row_has_its_own_distance(monkeypatch):
    """A norm over the whole batch would make moves depend on the other rows."""
    sampler = DOT(space="sample", optimiser="sgd", steps=5)
    together, alone = cut(sampler, curved(), [300]), cut(sampler, curved(), [100] * 3)
    assert same(together, alone)
    monkeypatch.setattr(moving, "row_sum", distances_of_the_batch)
    together, alone = cut(sampler, curved(), [300]), cut(sampler, curved(), [100] * 3)
    assert not same(together, alone)


def test_projections():
    z = drs.ops.normal(drs.Rng(0), 50, 128, stream=7)
    move = drs.ops.normal(drs.Rng(1), 50, 128, stream=7)
    tangent = dot.projected(move, z, "tangent")
    assert float((tangent * z).sum(dim=1).abs().max()) < 1e-4
    share = ((move * z).sum(dim=1) / (z * z).sum(dim=1))[:, None]
    assert torch.allclose(tangent, move - share * z, atol=1e-5)
    released = dot.projected(move, z, "released")
    assert torch.allclose(
        released, move - z * (z * move).sum(dim=1, keepdim=True) / math.sqrt(128), atol=1e-4
    )


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_moves_along_the_sphere(optimiser):
    def radial(project):
        sampler = DOT(optimiser=optimiser, steps=1, project=project)
        start, end, _ = moved(sampler, linear())
        return float(((end - start) * start).sum(dim=1).abs().max())

    assert radial("tangent") < 1e-6
    assert radial("none") > 1e-4
    assert radial("released") > 1e-4


def test_only_a_normal_prior_has_a_sphere():
    tangent, none = (
        steps(DOT(steps=3, project=project), linear(prior="uniform"), 200)
        for project in ("tangent", "none")
    )
    assert same(tangent, none)


@pytest.mark.parametrize(("prior", "box"), [("uniform", 1.0), ("truncated normal", 2.0)])
def test_latents_stay_in_the_priors_box(prior, box):
    batch = steps(DOT(steps=30, step_size=0.1), linear(prior=prior), 500)
    assert float(batch.z.abs().max()) == box
    free = steps(DOT(steps=30, step_size=0.1), linear(prior=torch.tanh), 500)
    assert float(free.z.abs().max()) > box / 2


def test_samples_stay_in_the_box_that_is_given():
    clipped = steps(DOT(space="sample", steps=5, box=1.5), linear(), 500)
    assert float(clipped.x.abs().max()) == 1.5
    assert float(steps(DOT(space="sample", steps=5), linear(), 500).x.abs().max()) > 1.5


def released(critic, z, constant, sampler):
    """Moves of latents as in the released code, in float64: project the gradient, then Adam."""
    start, point = z.double(), z.double().requires_grad_()
    adam = torch.optim.Adam([point], sampler.step_size, betas=(0.0, 0.9))
    for _ in range(sampler.steps):
        adam.zero_grad()
        distance = ((point - start).square().sum(dim=1) + sampler.delta**2).sqrt()
        (distance - critic(point) / constant).sum().backward()
        radial = (point.detach() * point.grad).sum(dim=1, keepdim=True)
        point.grad -= point.detach() * radial / math.sqrt(z.shape[1])
        adam.step()
    return point.detach()


@pytest.mark.parametrize("moves", [1, 10])
def test_released_moves(moves):
    weight = torch.linspace(1.0, 3.0, 128).double()
    critic = lambda x: (x * weight.to(x.dtype) + (0.5 * x).sin()).sum(dim=1)  # noqa: E731
    sampler = DOT(project="released", steps=moves)
    start, end, constant = moved(sampler, drs.GAN(torch.clone, critic, 128), 50)
    expected = released(critic, start, constant, sampler)
    assert float((end - expected).abs().max()) < 1e-6


def test_tangent_moves_climb_the_critic():
    """For a nearly radial slope, Adam's signs point anywhere along the sphere."""
    along = torch.linspace(-1.0, 1.0, 64)
    critic = lambda x: (along * x).sum(dim=1) - 5 * x.square().sum(dim=1)  # noqa: E731
    start, end, _ = moved(DOT(steps=1), drs.GAN(torch.clone, critic, 64))
    assert bool((((end - start) * along).sum(dim=1) > 0).all())


def test_naive_transport_has_no_distance():
    """Under a linear critic plain ascent keeps its pace and never turns back."""
    sampler = DOT(space="sample", transport="naive", optimiser="sgd", steps=7, step_size=0.25)
    start, end, constant = moved(sampler, linear())
    assert torch.allclose(end - start, (7 * 0.25 / constant * SLOPE).expand_as(start), atol=1e-5)
    assert "no known law" in sampler.law
    assert "transport" not in sampler.law


@pytest.mark.parametrize("space", ["latent", "sample"])
def test_one_call_of_the_critic_a_step(space):
    calls = []

    def critic(x):
        calls.append(len(x))
        return (x * SLOPE).sum(dim=1)

    model = drs.GAN(lambda z: 2 * z, critic, 3)
    sampler, rng = DOT(space=space, steps=7), drs.Rng(0)
    state, z = sampler.init(model, rng), drs.ops.latents(model, rng, 100)
    calls.clear()
    _, batch = sampler.step(model, state, z, None, rng)
    assert len(calls) == 7 + 1  # and one for the samples at the end
    assert int(batch.stats["gradients"]) == 700


@pytest.mark.parametrize("space", ["latent", "sample"])
def test_rows_may_be_cut_anywhere(space):
    sampler = DOT(space=space, steps=5)
    whole = cut(sampler, curved(block=1024), [700])
    assert same(whole, cut(sampler, curved(block=256), [1, 255, 37, 300, 107]))
    assert same(whole, drs.generate(curved(), sampler, 700, batch_size=256))
    logit = curved().scores(whole.x)
    assert torch.equal(whole.logit, logit)


def test_what_cannot_be_scored_is_no_sample():
    critic = lambda x: torch.where(x[:, 0] > 1.5, math.nan, x[:, 0])  # noqa: E731
    model = drs.GAN(torch.clone, critic, 2)
    sampler, rng = DOT(space="sample", steps=2), drs.Rng(0)
    z = drs.ops.latents(model, rng, 2000)
    state = sampler.State(torch.ones((), dtype=torch.float64), torch.ones(()))
    _, batch = sampler.step(model, state, z, None, rng)
    n = int(batch.count)
    assert 0 < int(batch.stats["invalid"]) == 2000 - n
    assert bool(torch.isfinite(batch.x).all())


def test_any_critic_and_labels():
    model = drs.GAN(lambda z, y: z, lambda x, y: x[:, 0] * (y - 1), 1, labels=3, link="hinge")
    batch = drs.generate(model, DOT(project="none"), 300)
    start = drs.ops.latents(model, drs.Rng(0), 300)
    move = (batch.z - start)[:, 0]
    assert bool((move.sign() == (batch.y - 1)).all())
    assert DOT().law == "a transport heuristic: no known law"


def test_samples_of_any_shape():
    model = drs.GAN(lambda z: z.view(-1, 1, 2, 2), lambda x: x.flatten(1).sum(dim=1).tanh(), 4)
    assert steps(DOT(space="sample", steps=2), model, 10).x.shape == (10, 1, 2, 2)
    assert int(steps(DOT(steps=2), gan(), 10).count) == 10


@pytest.mark.parametrize(
    ("name", "value"),
    [("space", "pixel"), ("steps", 0), ("step_size", 0), ("optimiser", "Adam"), ("delta", 0.0),
     ("project", "radial"), ("box", -1.0), ("box", 1.0), ("burn_in", 1), ("burn_in", 3),
     ("transport", "ot"), ("lipschitz", "true")],
)  # fmt: skip
def test_a_wrong_value_names_its_field(name, value):
    with pytest.raises(ValueError, match=name):
        DOT(**{name: value})
