"""drs.wrap: other calls and results of G and D, and errors that say the line that mends them."""

import re
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import drs_fast as drs
from drs_fast.gan.wrapped import Wrapped
from drs_fast.samplers.drs import DRS

CLASSES, D = 5, 8
QUICK = DRS(burn_in=512)


class Shared(nn.Module):
    """A generator that takes embedded labels, as BigGAN's does."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Embedding(CLASSES, 4)
        self.layer = nn.Linear(D + 4, 6)

    def forward(self, z, c):
        return self.layer(torch.cat([z, c], dim=1))


class OneHot(nn.Module):
    """As StyleGAN's: float labels, keywords, and a result of its own for each."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(D + CLASSES, 6)

    def forward(self, z, c, truncation_psi=1.0, noise_mode="const"):
        assert c.dtype == torch.float32
        noise = torch.zeros(6) if noise_mode == "const" else torch.randn(6)
        return truncation_psi * self.layer(torch.cat([z, c], dim=1)) + noise


class Styles(nn.Module):
    """Takes a list of latents, and returns a tuple, as rosinality's StyleGAN does."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(D, 6)

    def forward(self, styles):
        styles = [self.layer(each) / each.square().mean(dim=1, keepdim=True) for each in styles]
        return styles[0], None


class Unconditional(nn.Module):
    """Wants a label, and does without: c=None."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(D, 6)

    def forward(self, z, c):
        assert c is None
        return self.layer(z)


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.ConvTranspose2d(D, 6, 1)

    def forward(self, z):
        return self.layer(z).flatten(1)


class Critic(nn.Module):
    """Returns what `answer` makes of its features."""

    def __init__(self, answer):
        super().__init__()
        self.body, self.head, self.answer = nn.Linear(6, 4), nn.Linear(4, 1), answer

    def forward(self, x):
        h = self.body(x).tanh()
        return self.answer(h, self.head(h))


class Labelled(Critic):
    """A critic with an embedding of the label."""

    def __init__(self, answer):
        super().__init__(answer)
        self.embed = nn.Embedding(CLASSES, 4)

    def forward(self, x, y):
        h = self.body(x).tanh()
        return self.answer(h, self.head(h) + (h * self.embed(y)).sum(dim=1, keepdim=True))


class TwoClasses(nn.Module):
    """Has fewer classes than it is given, and would do without a label."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(2, D)

    def forward(self, z, y=None):
        return z if y is None else z + self.embed(y + 2)


@dataclass
class Answer:
    features: torch.Tensor
    logit: torch.Tensor


def image(h):
    return h[:, None, :, None].expand(-1, 1, -1, 3)


ANSWERS = {
    "StudioGAN's dict": (lambda h, s: {"h": h, "adv_output": s[:, 0]}, 'output="adv_output"'),
    "a dict of patches": (lambda h, s: {"p": image(h), "mode": 3}, 'output="p", reduce="mean"'),
    "a later place": (lambda h, s: (h, s), "output=1"),
    "patches": (lambda h, s: image(h), 'reduce="mean"'),
    "steps": (lambda h, s: h, 'reduce="mean"'),
    "steps, 3-d": (lambda h, s: h[:, :, None], 'reduce="mean"'),
    "maps": (lambda h, s: [image(h), image(2 * s)], 'reduce="mean"'),
    "maps of scales": (lambda h, s: [[image(h)], [image(s)]], 'reduce="mean"'),
    "scales with features": (
        lambda h, s: [[h[:, :, None], image(h)], [h[:, :, None], image(s)]],
        'output=lambda scales: [maps[-1] for maps in scales], reduce="mean"',
    ),
    "a record": (lambda h, s: Answer(h, s), "output=lambda found: found.logit"),
    "features, then patches": (
        lambda h, s: [image(h).expand(-1, 2, -1, -1), image(h)],
        'output=-1, reduce="mean"',
    ),
}
GENERATORS = {
    "Styles": (Styles, None, "drs.wrap(G, listed=True)"),
    "OneHot": (OneHot, CLASSES, f'drs.wrap(G, labels="onehot", classes={CLASSES})'),
    "Shared": (Shared, CLASSES, "drs.wrap(G, embed=G.shared)"),
    "Unconditional": (Unconditional, None, "drs.wrap(G, args=(None,))"),
    "without labels": (Transposed, CLASSES, 'drs.wrap(G, labels="none")'),
}


def advised(error):
    """The last line of drs.wrap in an error."""
    found = re.findall(r"drs\.wrap\(.*\)", str(error.value))
    return found[-1]


def latents(gan, n=300):
    return drs.ops.latents(gan, drs.Rng(3), n), drs.ops.labels(gan, drs.Rng(3), n)


@pytest.mark.parametrize(("answer", "options"), ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("labelled", [False, True])
def test_what_a_critic_returns_is_mended_by_the_line_that_its_error_prints(
    answer, options, labelled
):
    generator, labels = nn.Linear(D, 6), None
    critic = Critic(answer)
    if labelled:
        labels, critic = CLASSES, Labelled(answer)
        generator = drs.wrap(generator, labels="none")
    with pytest.raises(ValueError, match="must return one floating-point number") as error:
        drs.GAN(generator, critic, D, labels=labels, block=256).row()
    assert advised(error) == f"drs.wrap(D, {options})"
    wrapped = eval(advised(error), {"drs": drs, "D": critic})
    gan = drs.GAN(generator, wrapped, D, labels=labels, block=256)
    assert gan.logits(*latents(gan))[1].shape == (300,)
    assert len(drs.generate(gan, QUICK, 20).x) == 20


@pytest.mark.parametrize(("make", "labels", "line"), GENERATORS.values(), ids=GENERATORS)
def test_a_generator_that_refuses_is_mended_by_the_line_that_its_error_prints(make, labels, line):
    generator = make()
    critic = drs.wrap(Critic(lambda h, s: s), labels="none")
    with pytest.raises(ValueError, match="generator failed") as error:
        drs.GAN(generator, critic, D, labels=labels, block=256).row()
    if make is Transposed:
        assert "latent_shape=(8, 1, 1)" in str(error.value)
        return
    assert line in str(error.value)
    if labels is None:
        assert "it is called G(z)" in str(error.value) or "labels=K" in str(error.value)
    else:
        assert f"with labels={labels} it is called G(z, y)" in str(error.value)
    wrapped = eval(advised(error), {"drs": drs, "G": generator})
    gan = drs.GAN(wrapped, critic, D, labels=labels, block=256)
    assert len(drs.generate(gan, QUICK, 20).x) == 20


def test_latents_of_another_shape():
    with pytest.raises(ValueError, match=re.escape("GAN(G, D, latent_shape=(8, 1, 1))")):
        drs.GAN(Transposed(), Critic(lambda h, s: s), D).row()
    with pytest.raises(ValueError, match=re.escape("GAN(G, D, latent_dim=8)")):
        drs.GAN(nn.Linear(D, 6), Critic(lambda h, s: s), 3).row()
    with pytest.raises(ValueError, match=re.escape("GAN(G, D, latent_dim=8) in place of latent_s")):
        drs.GAN(nn.Linear(D, 6), Critic(lambda h, s: s), latent_shape=(D, 1, 1)).row()
    gan = drs.GAN(Transposed(), Critic(lambda h, s: s), latent_shape=(D, 1, 1))
    assert gan.row().shape == (1, 6)


REFUSALS = {
    "D without labels": (
        lambda: drs.GAN(lambda z, y: z, nn.Linear(D, 1), D, labels=3),
        ["with labels=3 it is called D(x, y)", 'drs.wrap(D, labels="none")'],
    ),
    "D with labels": (
        lambda: drs.GAN(nn.Linear(D, 6), Labelled(lambda h, s: s), D),
        ["missing 1 required positional argument: 'y'", "GAN(..., labels=K)", "called D(x, y)"],
    ),
    "a third argument": (
        lambda: drs.GAN(lambda z, y, alpha: z, nn.Linear(D, 1), D, labels=3),
        ["with labels=3 it is called G(z, y)", "drs.wrap(G, alpha=...)"],
    ),
    "a label that G lacks": (
        lambda: drs.GAN(TwoClasses(), nn.Linear(D, 1), D, labels=3),
        ["index out of range in self; check latent_dim=8 and labels=3"],
    ),
    "a tuple of G": (
        lambda: drs.GAN(lambda z: (z, 1), nn.Linear(D, 1), D),
        ["drs.wrap(G, output=0)"],
    ),
    "a dict of G": (
        lambda: drs.GAN(lambda z: {"w": z[:, :2], "image": z}, nn.Linear(D, 1), D),
        ['drs.wrap(G, output="image")'],
    ),
    "of one class each": (
        lambda: drs.GAN(lambda z, y: z, drs.wrap(nn.Linear(D, 3), labels="none"), D, labels=3),
        ['drs.wrap(D, labels="none", reduce="label")'],
    ),
    "a wrap that lacks more": (
        lambda: drs.GAN(
            lambda z, y: z, drs.wrap(lambda x: {"s": x[:, :1]}, labels="none"), D, labels=3
        ),
        ['drs.wrap(D, labels="none", output="s")'],
    ),
    "a key that is missing": (
        lambda: drs.GAN(lambda z: z, drs.wrap(lambda x: {"s": x[:, 0]}, output="adv"), D),
        ["returned a dict of 's' (128,) float32, for output=\"adv\"", 'drs.wrap(D, output="s")'],
    ),
    "a place that is missing": (
        lambda: drs.GAN(lambda z: z, drs.wrap(lambda x: (x, x[:, 0]), output=4), D),
        ["a tuple of (128, 8) float32, (128,) float32, for output=4", "drs.wrap(D, output=1)"],
    ),
    "a key of a tensor": (
        lambda: drs.GAN(lambda z: z, drs.wrap(lambda x: x, output="s"), D),
        ["returned (128, 8) float32", 'drs.wrap(D, reduce="mean")'],
    ),
    "a mean of a dict": (
        lambda: drs.GAN(lambda z: z, drs.wrap(lambda x: {"s": x}, reduce="mean"), D),
        ["must return tensors with 128 rows", 'drs.wrap(D, output="s", reduce="mean")'],
    ),
    "a mean over rows": (
        lambda: drs.GAN(lambda z: z, lambda x: x.mean(), D),
        ["return a number for each row of its input"],
    ),
}


@pytest.mark.parametrize(("make", "said"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(make, said):
    with pytest.raises(ValueError) as error:
        make().row()
    for words in said:
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "one-hot"}, "labels must be one of"),
        ({"labels": "onehot"}, "needs classes="),
        ({"labels": "none", "embed": nn.Embedding(2, 2)}, "embed must be a function"),
        ({"output": 1.5}, "output must be a place"),
        ({"output": True}, "output must be a place"),
        ({"reduce": "max"}, "reduce must be one of"),
        ({"args": None}, "args must be a tuple"),
        ({"classes": 0}, "classes must be an integer"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        drs.wrap(nn.Linear(2, 1), **options)
    with pytest.raises(ValueError, match="module must be callable"):
        drs.wrap("D", **options)


def test_reductions():
    x = drs.ops.normal(drs.Rng(1), 256, 12).reshape(256, 3, 2, 2)
    maps = [[x], [x[:, :1], 2.0 * x]]
    means = torch.stack(
        [x.flatten(1).mean(1), x[:, 0].flatten(1).mean(1), 2 * x.flatten(1).mean(1)]
    )
    wrapped = drs.wrap(lambda x: maps, reduce="mean")
    assert torch.allclose(wrapped(x), means.mean(0))
    total = 3.0 * x.flatten(1).sum(1) + x[:, 0].flatten(1).sum(1)
    assert torch.allclose(drs.wrap(lambda x: maps, reduce="sum")(x), total, atol=1e-5)
    assert torch.equal(drs.wrap(lambda x: (x[:, 0], x), reduce=torch.clone)(x), x[:, 0])
    y = torch.arange(256) % 12
    own = drs.wrap(lambda x: x.flatten(1), labels="none", reduce="label")(x, y)
    assert torch.equal(own, x.flatten(1)[torch.arange(256), y])
    half = drs.wrap(lambda x: x.half(), reduce="mean")
    assert half(x).dtype == torch.float32
    # Other rows in the call change nothing.
    mean = drs.wrap(lambda x: x, reduce="mean")
    assert torch.equal(mean(x)[:128], mean(x[:128]))


def test_keywords_and_tensors_are_passed_on():
    generator = OneHot()
    wrapped = drs.wrap(
        generator, labels="onehot", classes=CLASSES, truncation_psi=0.7, noise_mode="const"
    )
    z, y = torch.randn(4, D), torch.tensor([0, 1, 4, 4])
    hot = nn.functional.one_hot(y, CLASSES).float()
    assert torch.equal(wrapped(z, y), generator(z, hot, 0.7, "const"))
    assert 'labels="onehot", classes=5, truncation_psi=0.7, noise_mode="const"' in repr(wrapped)
    added = drs.wrap(torch.add, args=(torch.ones(1),))
    assert torch.equal(added(z), z + 1.0)


def test_options_are_in_the_sha256():
    def sha(generator=None, **options):
        critic = nn.Linear(D, 1)
        critic.load_state_dict({"weight": torch.ones(1, D), "bias": torch.zeros(1)})
        return drs.GAN(lambda z: z, drs.wrap(critic, **options), D).sha256()

    shas = [
        sha(),
        sha(output=lambda s: s),
        sha(output=lambda s: s + 1.0),
        sha(output=lambda s: s + 2.0),
        sha(reduce="mean"),
        sha(reduce="sum"),
        sha(args=(None,)),
        sha(scale=0.7),
        sha(scale=0.5),
    ]
    assert len(set(shas)) == len(shas)
    assert sha(output=lambda s: s + 1.0) == shas[2]
    offset = 3.0
    with_three = sha(output=lambda s: s + offset)
    offset = 4.0
    assert sha(output=lambda s: s + offset) != with_three


def real(n=400):
    return drs.ops.normal(drs.Rng(9), n, 6) + 0.5


def wrapped_gan(labels=None):
    y = None if labels is None else torch.arange(400) % labels
    if labels is None:
        generator = drs.wrap(Styles(), listed=True)
        critic = drs.wrap(Critic(lambda h, s: {"h": h, "out": s}), output="out")
        return drs.GAN(generator, critic, D, real=real(), block=256)
    generator = Shared()
    generator = drs.wrap(generator, embed=generator.shared)
    critic = drs.wrap(Labelled(lambda h, s: {"h": h, "out": h * s}), output="out", reduce="mean")
    return drs.GAN(generator, critic, D, real=(real(), y), labels=labels, block=256)


@pytest.mark.filterwarnings("ignore:too little was learned", "ignore:calibrated by")
@pytest.mark.parametrize("labels", [None, CLASSES])
def test_what_is_wrapped_works_everywhere(labels, tmp_path):
    gan = wrapped_gan(labels)
    whole = drs.keep_train(gan, whole=True, samples=400, max_steps=20)
    assert isinstance(whole.discriminator.critic, Wrapped)
    head = drs.keep_train(gan, samples=400, max_steps=20)
    assert not any(
        parameter.requires_grad for parameter in head.discriminator.features.parameters()
    )
    calibrated = drs.calibrate(gan, n=400)
    for one in (gan, whole, head, calibrated):
        assert len(drs.generate(one, QUICK, 20, batch_size=256).x) == 20
    assert "fails" not in drs.doctor(gan, n=512).codes
    z, y = latents(gan, 256)
    for names in (("channels_last",), ("cast",)):
        precision = "bf16" if names == ("cast",) else "fp32"
        tuned = drs.tune.tuning.applied(gan.on(precision=precision), names)
        plain = gan.on(precision=precision).logits(z, y)[1]
        assert torch.allclose(tuned.logits(z, y)[1], plain, atol=0.05)
    drs.generate(gan, QUICK, 30, out=tmp_path / "run", batch_size=256)
    longer = drs.generate(gan, QUICK, 60, out=tmp_path / "run", batch_size=256)
    assert torch.equal(longer.ids[:], drs.generate(gan, QUICK, 60, batch_size=256).ids)


def test_batch_norm_is_folded_inside_a_wrap():
    layers = nn.Sequential(nn.Linear(D, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 6))
    generator = drs.wrap(First(layers), listed=True)
    gan = drs.GAN(generator, drs.wrap(Critic(lambda h, s: (s, h)), output=0), D, block=256)
    tuned = drs.tune.tuning.applied(gan, ("fold",))
    z, _ = latents(gan, 256)
    assert torch.allclose(tuned.logits(z)[1], gan.logits(z)[1], atol=1e-5)


class First(nn.Module):
    """Takes a list."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, styles):
        return self.layers(styles[0])


@pytest.mark.filterwarnings("ignore:calibrated by", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["script", "exported"])
def test_programs_are_wrapped(kind):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 2)

        def forward(self, x):
            made = self.layer(x)
            return made, made + 1.0

    if kind == "script":
        critic = torch.jit.script(Two())
    else:
        batch = torch.export.Dim("batch", min=2)
        critic = torch.export.export(
            Two(), (torch.zeros(4, 6),), dynamic_shapes={"x": {0: batch}}
        ).module()
    wrapped = drs.wrap(critic, output=1, reduce="mean").eval()
    gan = drs.GAN(nn.Linear(D, 6), wrapped, D, real=real(), block=256)
    z, _ = latents(gan, 300)
    x, logit = gan.logits(z)
    assert torch.allclose(logit, critic(x)[1].mean(dim=1), atol=1e-6)
    assert len(drs.generate(gan, QUICK, 20, batch_size=256).x) == 20
    calibrated = drs.calibrate(gan, n=400)
    assert calibrated.sha256() != gan.sha256()


@pytest.mark.parametrize("labels", [None, 3, CLASSES + 1])
def test_a_wrap_for_another_number_of_classes_is_refused(labels):
    wrapped = drs.wrap(OneHot(), labels="onehot", classes=CLASSES)
    for given in ((wrapped, nn.Linear(6, 1)), (lambda z, y: z, wrapped)):
        with pytest.raises(ValueError, match=f"classes={CLASSES}, but the GAN has labels={labels}"):
            drs.GAN(*given, D, labels=labels)
