"""The shipped GANs: what they promise, and that training is reproducible."""

import builtins
import importlib.util
from pathlib import Path

import pytest
import torch
from agreement import threads
from safetensors import safe_open
from torch import Tensor

from drs_fast import ops, zoo
from drs_fast.core import ACCEPT, BURN_IN_ROW, Rng
from drs_fast.gan import GAN
from drs_fast.training.fitting import (
    Draws,
    Dropout,
    area_under_curve,
    keep_train,
    logistic_loss,
    use_draws,
)
from drs_fast.zoo import digits, gaussians25, plane, swissroll

needs_sklearn = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="needs scikit-learn"
)


@pytest.fixture(scope="module")
def grid() -> GAN:
    return zoo.load("25gaussians")


@pytest.fixture(scope="module")
def proposals(grid: GAN) -> tuple[Tensor, Tensor]:
    return grid.logits(ops.latents(grid, Rng(0), 1_000_000))


@pytest.fixture(scope="module")
def accepted(grid: GAN, proposals: tuple[Tensor, Tensor]) -> Tensor:
    """Textbook rejection with the largest of 10,000 burn-in logits."""
    x, logit = proposals
    log_m = grid.logits(ops.latents(grid, Rng(0, BURN_IN_ROW), 10_000))[1].max()
    return x[ops.uniform(Rng(0), len(x), stream=ACCEPT) < (logit.double() - log_m).exp()]


@pytest.fixture(scope="module")
def roll() -> tuple[Tensor, Tensor]:
    gan = zoo.load("swissroll")
    return gan.logits(ops.latents(gan, Rng(0), 200_000))


@pytest.mark.parametrize(
    ("name", "shape"), [("25gaussians", (2,)), ("digits", (1, 8, 8)), ("swissroll", (2,))]
)
def test_loads_with_its_shapes(name: str, shape: tuple[int, ...]) -> None:
    gan = zoo.load(name)
    x, logit = gan.logits(ops.latents(gan, Rng(1), 300))
    assert gan.name == name
    assert x.shape == (300, *shape)
    assert x.dtype == torch.float32
    assert logit.shape == (300,)
    assert logit.isfinite().all()
    assert logit.min() < 0, "a logit takes both signs"
    assert logit.max() > 1, "and is no probability"


@pytest.mark.parametrize("name", zoo.NAMES)
def test_discriminator_is_a_function_of_one_sample(name: str) -> None:
    gan = zoo.load(name)
    x, logit = gan.logits(ops.latents(gan, Rng(2), 512))
    order = Draws(5).permutation(512)
    with torch.inference_mode():
        assert torch.equal(gan.discriminator(x[order]), logit[order])
        alone = gan.discriminator(x[:1])
    torch.testing.assert_close(alone, logit[:1], rtol=1e-4, atol=1e-4)


def test_weights_are_small_and_say_where_they_come_from() -> None:
    assert sum(zoo.weights_file(name).stat().st_size for name in zoo.NAMES) < 3_000_000
    for name in zoo.NAMES:
        with safe_open(zoo.weights_file(name), framework="pt") as file:
            facts = file.metadata()
            assert {key.split(".")[0] for key in file.keys()} == {"generator", "discriminator"}  # noqa: SIM118
        assert facts["name"] == name
        assert {"seed", "held_out_loss", "mean_weight"} <= facts.keys()


def test_loading_leaves_the_global_stream_alone() -> None:
    state = torch.get_rng_state()
    gan = zoo.load("digits")
    assert torch.equal(torch.get_rng_state(), state)
    assert gan.device == torch.device("cpu")


def test_unknown_name_lists_the_zoo() -> None:
    with pytest.raises(ValueError, match="25gaussians, digits, swissroll; got 'cats'"):
        zoo.load("cats")


def test_raw_generator_is_imperfect_and_has_every_mode(proposals: tuple[Tensor, Tensor]) -> None:
    share, modes = gaussians25.quality(proposals[0][:20_000])
    assert 0.55 <= share <= 0.75
    assert (modes > 0).all()


def test_rejection_repairs_it(proposals: tuple[Tensor, Tensor], accepted: Tensor) -> None:
    raw, _ = gaussians25.quality(proposals[0])
    share, modes = gaussians25.quality(accepted)
    assert len(accepted) > 5_000
    assert share >= raw + 0.2
    assert share >= 0.93
    balance = modes * 25 / modes.sum()
    assert balance.min() > 0.6
    assert balance.max() < 1.5


def test_accepted_modes_have_the_right_width(accepted: Tensor) -> None:
    offset = accepted - accepted.round().clamp(-2, 2)
    good = offset[offset.norm(dim=1) < gaussians25.QUALITY_RADIUS]
    assert float(good.square().mean().sqrt()) == pytest.approx(gaussians25.STD, rel=0.2)


def test_25gaussians_logit_is_calibrated(grid: GAN, proposals: tuple[Tensor, Tensor]) -> None:
    """E_g[p_data/p_model] = E_data[p_model/p_data] = 1 wherever both have mass."""
    assert float(proposals[1].double().exp().mean()) == pytest.approx(1, abs=0.15)
    with torch.inference_mode():
        real = grid.discriminator(gaussians25.real(100_000)).double()
    assert float((-real).exp().mean()) == pytest.approx(1, abs=0.4)


def test_quality_counts_points_within_four_sd() -> None:
    x = torch.tensor([[0.0, 0.0], [0.0, 0.19], [2.0, -2.19], [0.0, 0.21], [3.0, 0.0]])
    share, modes = gaussians25.quality(x)
    assert share == pytest.approx(0.6)
    assert modes.tolist() == [*[0] * 12, 2, *[0] * 7, 1, *[0] * 4]


def test_real_25gaussians_follow_the_formula() -> None:
    x = gaussians25.real(50_000)
    share, modes = gaussians25.quality(x)
    assert share > 0.999
    assert (modes - 2_000).abs().max() < 5 * 2_000**0.5
    assert float((x - x.round()).std()) == pytest.approx(0.05, rel=0.02)


def test_real_roll_follows_the_formula() -> None:
    x = swissroll.real(50_000)
    share, stretches = swissroll.quality(x)
    assert share > 0.999
    assert (stretches - 2_000).abs().max() < 7 * 2_000**0.5, "ends and curvature shift a few"
    distance, _ = swissroll.nearest(x)
    assert float(distance.square().mean().sqrt()) == pytest.approx(swissroll.STD, rel=0.02)
    assert float(distance.max()) < 6 * swissroll.STD


@needs_sklearn
def test_real_roll_is_that_of_scikit_learn() -> None:
    """The same curve: means per axis and of the distance within 5 standard errors (1e-6)."""
    from sklearn.datasets import make_swiss_roll

    points, _ = make_swiss_roll(20_000, noise=0.25, random_state=0)
    theirs = torch.from_numpy(points[:, [0, 2]]).float() / 7.5
    exact = make_swiss_roll(100, noise=0.0, random_state=0)
    torch.testing.assert_close(
        swissroll.roll(torch.from_numpy(exact[1])),
        torch.from_numpy(exact[0][:, [0, 2]]) / 7.5,
    )
    ours = swissroll.real(20_000)
    distances = [swissroll.nearest(x)[0] for x in (ours, theirs)]
    for a, b in (distances, *zip(ours.double().T, theirs.double().T, strict=True)):
        error = float((a.var() / len(a) + b.var() / len(b)).sqrt())
        assert abs(float(a.mean() - b.mean())) < 5 * error
    assert float(distances[0].std()) == pytest.approx(float(distances[1].std()), rel=0.05)


def test_nearest_point_of_the_roll() -> None:
    t = torch.linspace(5.0, 14.0, 1_001, dtype=torch.float64)
    tangent = torch.stack([t.cos() - t * t.sin(), t.sin() + t * t.cos()], dim=1)
    normal = torch.stack([-tangent[:, 1], tangent[:, 0]], dim=1) / tangent.norm(dim=1)[:, None]
    for offset in (-0.3, -0.1, 0.0, 0.2):
        distance, found = swissroll.nearest(swissroll.roll(t) + offset * normal)
        torch.testing.assert_close(distance, torch.full_like(t, abs(offset)), rtol=0, atol=1e-5)
        torch.testing.assert_close(found, t, rtol=0, atol=2e-3)
    ends = swissroll.roll(torch.tensor([swissroll.START, swissroll.START + swissroll.TURN]))
    beyond = ends + torch.tensor([[-0.1, 0.0], [-0.3, 0.0]])
    assert swissroll.nearest(beyond)[0].tolist() == pytest.approx([0.1, 0.3], abs=0.03)


def test_raw_roll_is_imperfect_and_has_every_stretch(roll: tuple[Tensor, Tensor]) -> None:
    share, stretches = swissroll.quality(roll[0][:20_000])
    assert 0.55 <= share <= 0.75
    assert (stretches > 0).all()


def test_rejection_repairs_the_roll(roll: tuple[Tensor, Tensor]) -> None:
    x, logit = roll
    log_m = logit[:10_000].max()
    kept = x[ops.uniform(Rng(0), len(x), stream=ACCEPT) < (logit.double() - log_m).exp()]
    share, stretches = swissroll.quality(kept)
    assert len(kept) > 5_000
    assert share >= 0.95
    balance = stretches * swissroll.STRETCHES / stretches.sum()
    assert balance.min() > 0.6
    assert balance.max() < 1.5
    distance = swissroll.nearest(kept)[0]
    good = distance[distance < swissroll.QUALITY_RADIUS]
    assert float(good.square().mean().sqrt()) == pytest.approx(swissroll.STD, rel=0.2)


def test_swissroll_logit_is_calibrated(roll: tuple[Tensor, Tensor]) -> None:
    assert float(roll[1].double().exp().mean()) == pytest.approx(1, abs=0.15)
    real = zoo.load("swissroll").scores(swissroll.real(100_000)).double()
    assert float((-real).exp().mean()) == pytest.approx(1, abs=0.4)


@needs_sklearn
def test_digits_discriminator_tells_unseen_digits_apart() -> None:
    gan = zoo.load("digits")
    training, held_out = digits.split()
    generated = gan.logits(ops.latents(gan, Rng(3), 2_000))[1]
    with torch.inference_mode():
        real = gan.discriminator(held_out)
    assert len(training) + len(held_out) == 1797
    assert 0.55 < area_under_curve(real, generated) < 0.99
    assert float(logistic_loss(real, generated)) < 0.69


@needs_sklearn
def test_generated_digits_lie_near_real_ones() -> None:
    gan = zoo.load("digits")
    x, _ = gan.logits(ops.latents(gan, Rng(4), 500))
    assert x.abs().max() <= 1

    def nearest(images: Tensor) -> float:
        return float(torch.cdist(images.flatten(1), digits.split()[0].flatten(1)).amin(1).mean())

    assert nearest(x) < 1.5 * nearest(digits.split()[1])
    assert nearest(x) > 1, "not copies of the training set"


@needs_sklearn
def test_real_digits_are_not_given_twice() -> None:
    x = digits.real(10_000)
    assert x.shape == (1797, 1, 8, 8)
    assert torch.equal(x[:360], digits.split()[1])
    assert (float(x.min()), float(x.max())) == (-1, 1)


def test_digits_without_sklearn_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return original(name, *rest)  # type: ignore[arg-type]

    digits.images.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RuntimeError, match=r"drs_fast\[zoo\]"):
        digits.real(1)


@pytest.mark.parametrize(
    "name", ["25gaussians", pytest.param("digits", marks=needs_sklearn), "swissroll"]
)
def test_training_repeats_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "HELD_OUT", 1_000)
    state = torch.get_rng_state()
    runs = [zoo.MODELS[name].train(seed, max_steps=3)[0] for seed in (7, 7, 8)]
    assert torch.equal(torch.get_rng_state(), state), "training leaves torch's own stream alone"
    assert runs[0].keys() == runs[1].keys()
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])
    assert not any(torch.equal(runs[0][key], runs[2][key]) for key in runs[0])


def test_training_script_writes_what_load_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from drs_fast.zoo import train

    original = gaussians25.train
    monkeypatch.setattr(plane, "HELD_OUT", 1_000)
    monkeypatch.setattr(
        gaussians25, "train", lambda seed, say: original(seed, max_steps=2, say=say)
    )
    with threads(torch.get_num_threads()):  # main sets it
        train.main(["25gaussians", "--seed", "3", "--out", str(tmp_path / "new" / "w.safetensors")])
    monkeypatch.setattr(zoo, "weights_file", lambda name: tmp_path / "new" / "w.safetensors")
    assert zoo.load("25gaussians").logits(torch.zeros(1, 2))[1].isfinite().all()
    assert "held-out loss" in capsys.readouterr().out


def test_draws_never_repeat_a_row() -> None:
    draws = Draws(0)
    first, second = draws.normal(10, 2), draws.normal(10, 2)
    assert not torch.equal(first, second)
    assert torch.equal(torch.cat([first, second]), Draws(0).normal(20, 2))
    assert sorted(draws.permutation(50).tolist()) == list(range(50))
    assert set(draws.integers(500, 3).tolist()) == {0, 1, 2}


def test_dropout_drops_whole_channels_only_in_training() -> None:
    layer = Dropout(0.25)
    x = torch.ones(400, 16, 2, 2)
    with pytest.raises(RuntimeError, match="use_draws"):
        layer(x)
    use_draws(layer, Draws(0))
    dropped = layer(x)
    assert torch.equal(dropped, dropped[:, :, :1, :1].expand_as(dropped))
    assert float((dropped == 0).double().mean()) == pytest.approx(0.25, abs=0.03)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.04)
    assert layer.eval()(x) is x


def test_keep_train_finds_the_ratio_and_keeps_the_best() -> None:
    """N(1, 1) against N(0, 1): log ratio x - 1/2."""
    draws = Draws(1)

    def batch(n: int = 512) -> tuple[Tensor, Tensor]:
        return draws.normal(n, 1) + 1, draws.normal(n, 1)

    linear = draws.build(lambda: torch.nn.Linear(1, 1))
    network = torch.nn.Sequential(linear, torch.nn.Flatten(0))
    held_out = batch(20_000)
    loss = keep_train(network, batch, held_out, rate=0.05, every=20, patience=3)
    assert not network.training
    assert loss == pytest.approx(float(logistic_loss(*(network(x) for x in held_out)).detach()))
    assert float(linear.weight.detach()) == pytest.approx(1, abs=0.05)
    assert float(linear.bias.detach()) == pytest.approx(-0.5, abs=0.05)


def test_area_under_curve_counts_ties_half() -> None:
    assert area_under_curve(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])) == 0.875
