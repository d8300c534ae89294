"""Tables from CTGAN.

Source: Xu, Skoularidou, Cuesta-Infante and Veeramachaneni, Modeling tabular data using conditional
GAN, NeurIPS 2019.
"""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from drs_fast.adapters.columns import Categories, Numbers, Rows, Seen
from drs_fast.core.arguments import describe
from drs_fast.gan import GAN
from drs_fast.ratio.head import keep_train

if TYPE_CHECKING:
    from ctgan import CTGAN


class Table(GAN):
    """A GAN whose samples are rows of a table as numbers, (n, columns) float64.

    A category is its place among those of its column. Runs keep the numbers.
    """

    def __init__(
        self, rows: Rows, real: Tensor, empty: pd.DataFrame, categories: Sequence[Any]
    ) -> None:
        """empty: the table without rows. categories: of every column, None for numbers."""
        super().__init__(rows, None, rows.latent_dim, real=real, name="ctgan")
        self._empty, self._categories = empty, categories

    def decoded(self, x: Tensor, ids: Tensor | None = None) -> pd.DataFrame:
        """Samples (n, columns) as a DataFrame with the columns, types and order of the table."""
        each = zip(x.cpu().numpy().T, self._empty.dtypes, self._categories, strict=True)
        columns = {
            place: pd.Series(values).astype(dtype)
            if categories is None
            else categories.take(values.astype(np.int64))
            for place, (values, dtype, categories) in enumerate(each)
        }
        return pd.DataFrame(columns).set_axis(self._empty.columns, axis=1)


def ctgan(
    model: "CTGAN",
    table: pd.DataFrame,
    *,
    samples: int = 20_000,
    max_steps: int = 20_000,
    seed: int = 0,
) -> GAN:
    """A fitted CTGAN, with a critic that is fitted on the table, because CTGAN keeps none.

    A sample is a row of the table as numbers, (columns,) float64, where a category is its place
    among those of its column. `gan.decoded(x)` is a DataFrame like the table. The generator is a
    copy in eval mode: batch norm uses its averages, where `model.sample` uses those of a batch.

    table: what the model was fitted on.
    samples, max_steps, seed: of the critic's fit, as in `drs.keep_train`.
    """
    from ctgan import CTGAN  # here, so that the adapters can be documented without it

    if not isinstance(model, CTGAN) or model._generator is None:
        raise ValueError(
            "model must be a ctgan.CTGAN after model.fit(table, discrete_columns), got "
            f"{describe(model)}"
        )
    infos = model._transformer._column_transform_info_list
    names = [info.column_name for info in infos]
    if not isinstance(table, pd.DataFrame) or list(table.columns) != names:
        held = list(table.columns) if isinstance(table, pd.DataFrame) else describe(table)
        raise ValueError(
            f"table must be the DataFrame that the model was fitted on, of columns {names}, got "
            f"{held}"
        )
    table = table.infer_objects()
    columns, known, categories = zip(*(_column(info, table) for info in infos), strict=True)
    frequency = torch.from_numpy(model._data_sampler._discrete_column_category_prob.flatten())
    generator = copy.deepcopy(model._generator)
    rows = Rows(generator, model._embedding_dim, frequency[frequency > 0], columns)
    gan = Table(rows.to(model._device), torch.stack(known, dim=1), table.iloc[:0], categories)
    return keep_train(gan, Seen(columns), samples=samples, max_steps=max_steps, seed=seed)


def _column(info: Any, table: pd.DataFrame) -> tuple[Numbers | Categories, Tensor, Any]:
    """A column, its values in the table as numbers, and its categories, if it has any."""
    values, transform = table[info.column_name], info.transform
    if info.column_type == "discrete":
        one_hot = transform.transform(values.to_frame()).to_numpy()
        _check(info.column_name, one_hot.any(axis=1))
        categories = pd.Series(transform.dummies, dtype=values.dtype).array
        places = torch.from_numpy(one_hot.argmax(axis=1)).double()
        return Categories(one_hot.shape[1]), places, categories
    known = values.to_numpy(np.float64, copy=True)
    _check(info.column_name, np.isfinite(known))
    valid, mixture = transform.valid_component_indicator, transform._bgm_transformer
    mean, variance = (
        torch.from_numpy(each.ravel()[valid]) for each in (mixture.means_, mixture.covariances_)
    )
    limits = None
    if pd.api.types.is_integer_dtype(values.dtype):
        held = np.iinfo(f"{values.dtype.kind}{values.dtype.itemsize}")
        limits = float(held.min), float(held.max)
    column = Numbers(mean, variance.sqrt(), transform.STD_MULTIPLIER, limits)
    return column, torch.from_numpy(known), None


def _check(name: str, fits: Any) -> None:
    if not fits.all():
        raise ValueError(
            f"table has values of {name!r} that the model was not fitted on; give the DataFrame "
            "that it was fitted on"
        )
