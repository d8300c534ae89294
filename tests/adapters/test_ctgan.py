"""CTGAN's tables, with the real package."""

import numpy as np
import pytest
import torch
from torch import nn

import drs_fast as drs

pytest.importorskip("ctgan")
import pandas as pd
from ctgan import CTGAN, TVAE

from drs_fast.adapters.columns import Rows, picked

DISCRETE = ["degree", "city", "member", "rooms", "since"]


def table(n=480):
    """A column of every kind, some of them with missing values."""
    r = np.random.default_rng(0)
    days = pd.to_datetime(["2024-01-01", "2024-02-01"])
    age = r.integers(18, 90, n)
    degree = pd.Categorical.from_codes(r.integers(0, 3, n), ["none", "bachelor", "master"], True)
    return pd.DataFrame(
        {
            "age": age,
            "degree": degree,
            "income": 700.0 * age + r.normal(0, 500, n),
            "city": r.choice(np.array(["Bern", "Oslo", None]), n),
            "member": age > 50,
            "height": (190 - 0.3 * age + r.normal(0, 2, n)).astype(np.float32),
            "rooms": r.choice([1.0, 2.0, np.nan], n),
            "since": days[r.integers(0, 2, n)],
            "children": r.integers(0, 4, n).astype(np.uint8),
        },
        index=pd.RangeIndex(100, 100 + n),
    )


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(0)
    model = CTGAN(
        embedding_dim=8, generator_dim=(16,), discriminator_dim=(16,), epochs=1, batch_size=40,
        enable_gpu=False,
    )  # fmt: skip
    model.set_random_state(0)
    model.fit(table(), DISCRETE)
    return model


@pytest.fixture(scope="module")
def gan(fitted):
    return drs.adapters.ctgan(fitted, table(), max_steps=100)


def test_real_rows_come_back_as_they_were(gan):
    real, _ = gan.real_samples(1_000)
    assert real.dtype == torch.float64
    pd.testing.assert_frame_equal(gan.decoded(real), table().reset_index(drop=True))


def test_samples_are_a_table_of_the_same_kind(gan):
    batch = drs.generate(gan, drs.samplers.DRS(), 300)
    made = gan.decoded(batch.x)
    assert len(made) == 300
    pd.testing.assert_series_equal(made.dtypes, table().dtypes)
    assert set(made["city"].dropna()) == {"Bern", "Oslo"}
    assert made[["city", "rooms"]].isna().any().all()
    assert made["degree"].cat.ordered


def test_a_row_is_what_the_model_makes_of_it(fitted, gan):
    """The model's own inverse transform of the same numbers gives the same table."""
    z = drs.ops.latents(gan, drs.Rng(0), 256)
    x = gan.samples(z)
    rows, raws = gan.generator, []
    hook = rows.generator.register_forward_hook(lambda part, given, raw: raws.append(raw))
    rows(z)
    hook.remove()
    parts = raws[0].split([column.width for column in rows.columns], dim=1)
    own = torch.special.ndtr(z[:, rows.normals + 1 :].double()).T
    active = []
    for info, part, u in zip(fitted._transformer.output_info_list, parts, own, strict=True):
        place = picked(part[:, len(info) - 1 :], u)
        active += [part[:, : len(info) - 1].tanh()]
        active += [nn.functional.one_hot(place, part.shape[1] - len(info) + 1)]
    theirs = fitted._transformer.inverse_transform(torch.cat(active, dim=1).detach().numpy())
    ours = gan.decoded(x)
    exact = [name for name in ours if name not in ("degree", "children")]
    pd.testing.assert_frame_equal(ours[exact], theirs[exact], check_exact=True)
    assert (ours["degree"] == theirs["degree"]).all()
    inside = gan.real_samples(1)[0].new_tensor(ours["children"].to_numpy()) > 0
    assert (ours["children"] == theirs["children"])[inside.numpy()].all()


def test_categories_and_conditions_are_as_frequent_as_the_model_draws_them(fitted, gan):
    even = (torch.arange(10_000).double() + 0.5) / 10_000
    logits = torch.tensor([0.3, -2.0, 1.5, -60.0])
    places = picked(logits.expand(10_000, 4), even)
    assert (places.bincount(minlength=4) / 10_000 - logits.softmax(0)).abs().max() < 2e-4
    ends = torch.tensor([0.0, 1.0]).double()
    assert picked(torch.zeros(2, 3), ends).tolist() == [0, 2]

    given = []
    rows = gan.generator
    hook = rows.generator.register_forward_pre_hook(lambda part, z: given.append(z[0]))
    z = torch.zeros(10_000, rows.latent_dim)
    z[:, rows.normals] = torch.special.ndtri(even).float()
    rows(z)
    hook.remove()
    found = given[0][:, rows.normals :].mean(dim=0).double()
    expected = fitted._data_sampler._discrete_column_category_prob.flatten()
    expected = torch.from_numpy(expected[expected > 0])
    assert (found - expected / expected.sum()).abs().max() < 2e-4


def test_rows_depend_on_nothing_else(fitted, gan):
    runs = [
        drs.generate(gan, drs.samplers.DRS(), 400, batch_size=size) for size in (128, 512, 4096)
    ]
    for run in runs[1:]:
        assert run.ids.equal(runs[0].ids)
        assert run.x.equal(runs[0].x)
    assert fitted._generator.training  # the model goes on as before
    assert drs.adapters.ctgan(fitted, table(), max_steps=100).sha256() == gan.sha256()


def test_a_run_on_disk_is_decoded(gan, tmp_path):
    run = drs.generate(gan, drs.samplers.DRS(), 50, out=tmp_path / "run")
    pd.testing.assert_series_equal(gan.decoded(run.x[:]).dtypes, table().dtypes)


def test_a_table_of_numbers_alone():
    numbers = table()[["income", "age"]]
    model = CTGAN(embedding_dim=4, generator_dim=(8,), epochs=1, batch_size=40, enable_gpu=False)
    model.fit(numbers)
    gan = drs.adapters.ctgan(model, numbers, max_steps=20)
    assert gan.latent_dim == 4 + 1 + 2
    pd.testing.assert_frame_equal(
        gan.decoded(gan.real_samples(500)[0]), numbers.reset_index(drop=True)
    )


@pytest.mark.parametrize("model", [CTGAN(), TVAE(), None], ids=["unfitted", "TVAE", "None"])
def test_another_model_is_refused(model):
    with pytest.raises(ValueError, match=r"model must be a ctgan.CTGAN after model.fit"):
        drs.adapters.ctgan(model, table())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (table().drop(columns="age"), r"of columns \['age', .*got \['degree', "),
        (table().to_numpy(), "must be the DataFrame that the model was fitted on"),
        (table().assign(member=None), "has values of 'member' that the model was not fitted on"),
        (table().assign(age=np.nan), "has values of 'age' that the model"),
    ],
    ids=["columns", "array", "category", "missing"],
)
@pytest.mark.filterwarnings("ignore:The data contains")
def test_another_table_is_refused(fitted, other, message):
    with pytest.raises(ValueError, match=message):
        drs.adapters.ctgan(fitted, other)


def test_the_module_is_hashed_by_what_it_computes(gan):
    assert isinstance(gan.generator, Rows)
    before = gan.sha256()
    gan.generator.columns[0].mean += 1.0
    assert gan.sha256() != before
    gan.generator.columns[0].mean -= 1.0
