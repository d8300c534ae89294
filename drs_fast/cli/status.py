"""`drs-fast status`, for which PyTorch is not imported."""

import argparse

from drs_fast.cli.exit_codes import OUT_OF_TIME
from drs_fast.store.status import Status


def run_status(options: argparse.Namespace) -> int:
    status = Status.of(options.dir)
    print(f"{options.dir}: {status}")
    return 0 if status.complete else OUT_OF_TIME
