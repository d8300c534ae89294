"""What a bound loses in each class or mode, as reports show it."""

import pytest
import torch
from hills import EXACT, hill
from planted_bounds import hurry

import drs_fast as drs
from drs_fast import zoo
from drs_fast.cli import main as cli
from drs_fast.report import balance, report


@pytest.fixture
def hurried(monkeypatch):
    hurry(monkeypatch)


def test_shares_and_losses():
    of = torch.tensor([0, 0, 1, 3])
    accepted, passed, seen = (
        torch.tensor(column, dtype=torch.float64)
        for column in ([0.5, 0.5, 1.0, 0.25], [0.5, 0.25, 2.0, 0.0], [1.0, 0.5, 0.5, 0.25])
    )
    found = balance.of_rows("mode", of, accepted, passed, seen)
    assert found.share.tolist() == [1.5 / 4.5, 2 / 4.5, 0.0, 1 / 4.5]
    assert found.lost.tolist() == [0.5 / 1.5, 0.0, 0.0, 1.0]
    assert found.kept().tolist() == pytest.approx([1 / 3, 2 / 3, 0.0, 0.0])
    assert balance.words(found) == {
        "most lost of a mode": "100.00% of mode 3, which has 22.22% of the samples",
        "share of a mode": "shifts by at most 22.222% of the samples",
    }


@pytest.mark.parametrize("name", ["25gaussians", "digits"])
def test_groups_of_real_samples(name):
    model = zoo.MODELS[name]
    if name == "digits":
        bundled = pytest.importorskip("sklearn.datasets").load_digits()
        assert torch.equal(model.groups(model.images()), torch.from_numpy(bundled.target).long())
    else:
        centres = model.CENTRES
        assert torch.equal(model.groups(centres + 0.3), torch.arange(25))
    assert zoo.groups(name) == (model.GROUPS, model.groups)


@pytest.mark.parametrize("name", ["swissroll", "hill", "None"])
def test_others_have_no_groups(name):
    assert zoo.groups(name) is None


def squeezed(gan, out, **options):
    return drs.generate(gan, drs.Squeeze(EXACT, tolerance=0.9), 200, out=out, **options)


def balanced(samples, state):
    return balance.of_run(samples, report.described(samples, state))


def test_the_report_of_modes(tmp_path, hurried, capsys):
    squeezed(drs.load("25gaussians"), tmp_path / "run", seed=3)
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "most lost of a mode" in said
    assert "share of a mode" in said
    assert "lost where none seen" in said
    assert "balance.png" in said
    assert (tmp_path / "run-report" / "balance.png").stat().st_size > 5000


def test_classes_are_those_of_the_rows_that_were_looked_at(tmp_path, hurried):
    """A bound that is too low for class 2 loses class 2."""
    gan = hill(3)
    samples = squeezed(gan, tmp_path / "run")
    state = dict(samples.state)
    rng = drs.Rng(samples.manifest["seed"])
    y = drs.ops.labels(gan, rng, len(state["looked"]), ids=state["looked"])
    state["checked"][:, 1] = state["checked"][:, 0] - 50.0 * (y == 2)
    found = balanced(samples, state)
    assert found.group == "class"
    assert found.lost[:2].tolist() == [0.0, 0.0]
    assert float(found.lost[2]) > 0.99
    assert float(found.share.sum()) == pytest.approx(1.0)


def test_why_there_is_no_balance(tmp_path, hurried):
    bare = drs.generate(hill(), EXACT, 50, out=tmp_path / "bare")
    assert balanced(bare, bare.state) == "no bound is used"
    unknown = squeezed(hill(), tmp_path / "unknown")
    assert "there are no labels" in balanced(unknown, unknown.state)
    gan = hill()
    gan.name = "25gaussians"
    named = squeezed(gan, tmp_path / "named")
    assert "only has the name" in balanced(named, named.state)


def test_a_report_says_why(tmp_path, hurried, capsys):
    squeezed(hill(), tmp_path / "run")
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    assert "balance: there are no labels" in capsys.readouterr().out


def test_a_stale_run_in_memory_keeps_what_it_has(monkeypatch, hurried):
    gan, squeeze = hill(), drs.Squeeze(EXACT, tolerance=0.9)
    monkeypatch.setattr(drs.Squeeze, "span", lambda self, gan, state, judged: judged)  # small steps

    def check(self, state, tallies):
        if tallies["judged"] > 3 * gan.block:
            raise drs.Stale("now")

    monkeypatch.setattr(drs.Squeeze, "check", check)
    with pytest.raises(drs.Stale) as caught:
        drs.generate(gan, squeeze, 100_000, batch_size=256)
    partial = caught.value.partial
    assert len(partial.x) == len(partial.ids) == int(partial.count) > 0
