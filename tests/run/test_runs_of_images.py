"""Runs whose samples are stored as images: in memory, on disk, in a stream, and in a report."""

import warnings

import matplotlib.image
import numpy as np
import pytest
import torch
from every_sampler import smooth
from hills import hill
from runs import files

import drs_fast as drs
from drs_fast.cli.main import main
from drs_fast.gan.images import Images
from drs_fast.report import pictures, report
from drs_fast.report.pictures import Panel
from drs_fast.run import plan, ways
from drs_fast.samplers.drs import DRS
from drs_fast.samplers.mh import MH
from drs_fast.samplers.obrs import OBRS
from drs_fast.squeeze import search
from drs_fast.squeeze.bounds import latent
from drs_fast.store import verify

SAMPLER = DRS(burn_in=2048)
SETTINGS = {"batch_size": 256, "chunk_rows": 1024, "images": "uint8"}
FORMS = {"uint8": torch.uint8, "float16": torch.float16}


def pixels(value_range=(-1.0, 1.0), scale=1.5, **options):
    """A GAN of images (1, 2, 2), some of which lie outside of (-1, 1)."""
    return drs.GAN(
        lambda z: (z * scale / 4).view(-1, 1, 2, 2),
        lambda x: x.flatten(1).sum(dim=1),
        4,
        value_range=value_range,
        **options,
    )


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* samples hold numbers", category=UserWarning)
        yield


@pytest.mark.parametrize("form", FORMS)
def test_the_critic_sees_what_it_always_saw(form, quiet):
    seen = set()

    def discriminator(x):
        seen.add(x.dtype)
        return x.flatten(1).sum(dim=1)

    gan = pixels().judged(discriminator)
    raw = drs.generate(gan, SAMPLER, 500)
    found = drs.generate(gan, SAMPLER, 500, images=form)
    assert seen == {torch.float32}
    assert found.x.dtype == FORMS[form]
    assert torch.equal(found.x, Images(form, -1.0, 1.0).stored(raw.x)["x"])
    for name in ("z", "logit", "ids", "weight"):
        assert torch.equal(getattr(found, name), getattr(raw, name))
    assert {k: v for k, v in found.stats.items() if k != "outside"} == raw.stats


@pytest.mark.parametrize("form", FORMS)
def test_a_run_goes_on_and_ends_in_the_bytes_of_one(form, tmp_path, quiet):
    settings = {**SETTINGS, "images": form}
    for n in (700, 1500):  # the first ends within a chunk
        part = drs.generate(pixels(), SAMPLER, n, out=tmp_path / "parts", **settings)
    whole = drs.generate(pixels(), SAMPLER, 1500, out=tmp_path / "whole", **settings)
    assert len(part.counts) > 2
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert verify(tmp_path / "whole") == []
    memory = drs.generate(pixels(), SAMPLER, 1500, **{**SETTINGS, "images": form})
    assert torch.equal(whole.x[:], memory.x)
    assert (whole.x.dtype, whole.x.shape) == (FORMS[form], (1500, 1, 2, 2))
    assert whole.manifest["outside"] == int(memory.stats["outside"])
    assert whole.manifest["images"] == form
    assert ("value_range" in whole.manifest) is (form == "uint8")
    chunk = tmp_path / "parts" / "chunk-00000001.safetensors"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"\x7f")
    assert len(verify(tmp_path / "parts")) == 1
    drs.store.repair(tmp_path / "parts")
    drs.generate(pixels(), SAMPLER, 1500, out=tmp_path / "parts", **settings)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_shards_have_a_byte_for_each_number(tmp_path, quiet):
    sizes = {}
    for form in (None, *FORMS):
        drs.generate(pixels(), SAMPLER, 900, out=tmp_path / f"{form}", save=("x",), images=form)
        shard = tmp_path / f"{form}" / "chunk-00000000.safetensors"
        sizes[form] = len(drs.store.open_run(shard.parent).x[:].numpy().tobytes())
    assert sizes == {None: 4 * 3600, "uint8": 3600, "float16": 2 * 3600}


def test_other_images_are_another_run(tmp_path, quiet):
    def again(gan, **changes):
        given = {"batch_size": 256, "images": "uint8", **changes}
        return drs.generate(gan, SAMPLER, 50, out=tmp_path / "run", **given)

    again(pixels())
    before = files(tmp_path / "run")
    again(pixels())
    for gan, changes, words in (
        (pixels((0.0, 1.0)), {}, r"value_range: there \[-1.0, 1.0\], here \[0.0, 1.0\]"),
        (pixels(), {"images": "float16"}, 'images: there "uint8", here "float16"'),
        (pixels(), {"images": None}, 'images: there "uint8", here null'),
    ):
        with pytest.raises(drs.Conflict, match=words):
            again(gan, **changes)
    assert files(tmp_path / "run") == before
    drs.generate(pixels(), SAMPLER, 50, out=tmp_path / "plain", batch_size=256)
    with pytest.raises(drs.Conflict, match='images: there null, here "uint8"'):
        drs.generate(pixels(), SAMPLER, 50, out=tmp_path / "plain", batch_size=256, images="uint8")


def test_a_run_without_images_says_nothing_of_them(tmp_path):
    samples = drs.generate(pixels((0.0, 9.0)), SAMPLER, 50, out=tmp_path / "run")
    assert not {"images", "image_rule", "value_range", "outside"} & samples.manifest.keys()
    assert samples.manifest["tallies"] == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_run_of_another_dtype_goes_on(dtype, tmp_path):
    gan = drs.GAN(lambda z: z.to(dtype), lambda x: x.sum(dim=1).float(), 2)
    for n in (300, 900):
        samples = drs.generate(gan, SAMPLER, n, out=tmp_path / "run", batch_size=256)
    assert samples.x.dtype == dtype


def test_what_does_not_fit_is_counted_and_said_once(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for gan in (pixels((-9.0, 9.0)), pixels(scale=0.1)):
            assert int(drs.generate(gan, SAMPLER, 300, images="uint8").stats["outside"]) == 0
    raw = drs.generate(pixels(), SAMPLER, 300)
    count = int((raw.x.abs() > 1.02).flatten(1).any(dim=1).sum())
    assert 0 < count < 300
    words = rf"{count} of 300 samples hold .* value_range=\(-1, 1\) by more than 1 %"
    for out in ({}, {"out": tmp_path / "run"}):
        with pytest.warns(UserWarning, match=words) as said:
            drs.generate(pixels(), SAMPLER, 300, images="uint8", **out)
        assert len(said) == 1
        assert said[0].filename == __file__
    assert drs.open(tmp_path / "run").manifest["outside"] == count
    with pytest.warns(
        UserWarning, match="300 of 300 samples hold numbers that are NaN or infinite"
    ):
        drs.generate(pixels(scale=1e6), SAMPLER, 300, images="float16")


def test_numbers_that_are_none_do_not_fit():
    gan = drs.GAN(
        lambda z: torch.where(z > 1.0, torch.nan, z / 4),
        lambda x: x.nan_to_num().sum(dim=1),
        2,
    )
    with pytest.warns(UserWarning, match="hold numbers that are NaN or outside"):
        batch = drs.generate(gan, SAMPLER, 300, images="uint8")
    assert int(batch.stats["outside"]) == int((batch.z > 1.0).any(dim=1).sum())
    assert (batch.x[batch.z > 1.0] == 0).all()


def test_squeezed_samples_are_images(quiet, monkeypatch):
    monkeypatch.setattr(search, "ROWS", (1024, 2048))
    monkeypatch.setattr(latent, "EPOCHS", 4)
    exact = DRS(gamma=0.0, burn_in=2048)
    gan, sampler = hill(), drs.Squeeze(exact, tolerance=0.5, use_bound=True)
    raw = drs.generate(gan, sampler, 60)
    found = drs.generate(gan, sampler, 60, images="uint8")
    assert "judged" in found.stats
    assert torch.equal(found.ids, raw.ids)
    assert torch.equal(found.x, gan.stored_as("uint8").stored(raw.x)["x"])


def test_real_starts_become_images_by_the_same_rule(quiet):
    gan, sampler = smooth().judged(lambda x: 40.0 * x[:, 0]), MH(chain_length=2, burn_in=64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* chains never moved")
        raw = drs.generate(gan, sampler, 200, batch_size=256)
        found = drs.generate(gan, sampler, 200, batch_size=256, images="uint8")
    assert (raw.ids < 0).any()
    assert torch.equal(found.x, gan.stored_as("uint8").stored(raw.x)["x"])


@pytest.mark.parametrize("form", FORMS)
def test_streams(form, quiet):
    plain, images = (
        drs.stream(pixels(), SAMPLER, batch_size=256, images=given) for given in (None, form)
    )
    for _ in range(3):
        raw, found = next(plain), next(images)
        stored = Images(form, -1.0, 1.0).stored(raw.x)
        assert torch.equal(found.x, stored["x"])
        assert int(found.stats["outside"]) == int(stored["outside"].sum())
        assert "outside" not in raw.stats


def test_classes_within_their_quotas(tmp_path, quiet):
    gan, sampler = smooth(3, value_range=(-0.1, 0.1)), DRS(classes="within", burn_in=2048)
    raw = drs.generate(gan, sampler, 400, batch_size=256)
    found = drs.generate(gan, sampler, 400, out=tmp_path / "run", **SETTINGS)
    stored = gan.stored_as("uint8").stored(raw.x)
    assert torch.equal(found.x[:], stored["x"])
    assert found.manifest["outside"] == int(stored["outside"].sum())
    batch = next(iter(drs.stream(gan, sampler, batch_size=256, images="uint8")))
    assert batch.x.dtype == torch.uint8


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"images": "png"}, r"images must be one of \('uint8', 'float16'\), got 'png'"),
    ],
)
def test_wrong_requests(given, words):
    with pytest.raises(ValueError, match=words):
        drs.generate(pixels(), SAMPLER, 1, **given)


def test_whole_numbers_are_refused_before_burn_in():
    gan = drs.GAN(lambda z: (z * 10).long(), lambda x: x.sum(dim=1).float(), 2)
    calls = []
    gan = gan.judged(lambda x: calls.append(len(x)) or x.sum(dim=1).float())
    with pytest.raises(ValueError, match=r"needs samples of floating-point numbers, got .* int64"):
        drs.generate(gan, SAMPLER, 1, batch_size=256, images="uint8")
    assert len(calls) == 1


def test_an_empty_run_has_the_dtype(tmp_path):
    for form, dtype in FORMS.items():
        samples = drs.generate(pixels(), SAMPLER, 0, out=tmp_path / form, images=form)
        assert samples.x.dtype == dtype
        assert drs.generate(pixels(), SAMPLER, 0, images=form).x.dtype == dtype


def test_a_report_says_what_was_done(tmp_path, quiet):
    drs.generate(pixels(), OBRS(burn_in=2048), 300, out=tmp_path / "run", **SETTINGS)
    text, drawn, _ = report.write(tmp_path / "run")
    assert "uint8, 0 for -1 and 255 for 1" in text
    assert f"{drs.open(tmp_path / 'run').manifest['outside']:,}" in text.split("do not fit")[1]
    assert text.count("outside") == 0
    assert "samples.png" in {path.name for path in drawn}


def test_bytes_are_drawn_from_black_to_white(tmp_path):
    """Also where no sample is black or white."""
    grey = torch.full((64, 1, 8, 8), 51, dtype=torch.uint8)
    grey[0, 0, 0, 0] = 102
    drawn = matplotlib.image.imread(pictures.grids(tmp_path / "grid.png", [Panel("", grey)]))
    found = np.unique(np.round(drawn[..., 0] * 255).astype(int))
    assert 51 in found
    assert 102 in found


def test_a_plan_recommends_the_images_it_was_asked_for(monkeypatch):
    monkeypatch.setattr(plan, "DRAWING", 0.1)
    monkeypatch.setattr(ways, "SLICE", 0.01)
    found = drs.plan(pixels(scale=0.1), SAMPLER, n=100, batch_size=256, images="uint8")
    assert "--images uint8" in str(found)
    assert "images='uint8'" in str(found)


def test_the_command_line(tmp_path, capsys):
    command = ["generate", "digits", "-n", "50", "--out", str(tmp_path / "run"), "--quiet"]
    assert main([*command, "--images", "uint8"]) == 0
    assert drs.open(tmp_path / "run").x.dtype == torch.uint8
    assert main(command) == 7
    assert 'images: there "uint8", here null' in capsys.readouterr().err
