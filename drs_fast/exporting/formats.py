"""The formats by name."""

from drs_fast.exporting.format import Format
from drs_fast.exporting.hf import HuggingFace
from drs_fast.exporting.imagefolder import ImageFolder
from drs_fast.exporting.npy import Npy
from drs_fast.exporting.npz import Npz
from drs_fast.exporting.parquet import Parquet
from drs_fast.exporting.webdataset import WebDataset

FORMATS: dict[str, type[Format]] = {
    "parquet": Parquet,
    "npz": Npz,
    "npy": Npy,
    "webdataset": WebDataset,
    "imagefolder": ImageFolder,
    "hf": HuggingFace,
}
