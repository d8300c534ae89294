"""One table says what a column is; these are the places that a new one needs beside it."""

import dataclasses

import pytest
import torch
from every_sampler import smooth

import drs_fast as drs
from drs_fast.core.columns import COLUMNS, SAVEABLE
from drs_fast.store.samples import Samples


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_is_a_field_of_batches_and_a_property_of_runs(name):
    fields = {field.name for field in dataclasses.fields(drs.Batch)} | vars(drs.Batch).keys()
    assert name in fields
    assert isinstance(vars(Samples).get(name), property)
    assert name in SAVEABLE or name in ("ids", "y")  # which are always saved


def test_a_run_has_the_columns_of_the_table(tmp_path):
    run = drs.generate(smooth(3), drs.samplers.DRS(), 50, out=tmp_path / "run", save=SAVEABLE)
    assert run.columns == tuple(COLUMNS)
    memory = drs.generate(smooth(3), drs.samplers.DRS(), 50)
    for name, column in COLUMNS.items():
        for found in (run.column(name)[:], getattr(memory, name)):
            assert found.dtype == column.dtype or column.dtype is None
            assert found.ndim == column.dimensions or column.dtype is None
            assert found.shape == getattr(memory, name).shape


@pytest.mark.parametrize("name", COLUMNS)
def test_a_run_without_samples_has_their_dtypes(name, tmp_path):
    run = drs.generate(smooth(3), drs.samplers.DRS(), 0, out=tmp_path / "run", save=SAVEABLE)
    assert run.column(name).dtype == (COLUMNS[name].dtype or torch.float32)
