"""Which worker this process is, as torchrun or Slurm says it in the environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from drs_fast.run.worker import Worker

CONNECTING = timedelta(seconds=20)
Environment = Mapping[str, str]


def worker(given: str | None, environment: Environment) -> Worker | None:
    """The worker that was asked for, or the one that was launched; None for a process alone.

    torchrun's workers share a counter. Those of Slurm are the tasks of all tasks of a job array:
    each has chunks of its own.
    """
    if given is not None:
        return Worker.parsed(given)
    if (place := _of_torchrun(environment)) is not None:
        number, of = place
        counter = Counter.of_agent(environment) if of > 1 else None
    else:
        (number, of), counter = _of_slurm(environment), None
    return Worker(number + 1, of, counter, stays=True) if of > 1 else None


def device(given: str | None, environment: Environment) -> str | None:
    """The GPU of this worker among those of its machine, unless another device was asked for."""
    local = _number(environment, "LOCAL_RANK")
    if local is None and _of_slurm(environment)[1] > 1:
        local = _number(environment, "SLURM_LOCALID")
    if local is None or given not in (None, "cuda") or not torch.cuda.is_available():
        return given
    gpu = local % torch.cuda.device_count()
    torch.cuda.set_device(gpu)  # for models that load to "cuda"
    return f"cuda:{gpu}"


def _of_torchrun(environment: Environment) -> tuple[int, int] | None:
    """The number of this worker, from 0, and of how many."""
    rank, of = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
    return None if rank is None or of is None else (rank, of)


def _of_slurm(environment: Environment) -> tuple[int, int]:
    task, tasks = (_number(environment, f"SLURM_{name}") for name in ("PROCID", "NTASKS"))
    if task is None or tasks is None:
        task, tasks = 0, 1
    job = _number(environment, "SLURM_ARRAY_TASK_ID")
    if job is None:
        return task, tasks
    first = _number(environment, "SLURM_ARRAY_TASK_MIN") or 0
    step = _number(environment, "SLURM_ARRAY_TASK_STEP") or 1
    if job < first:
        raise ValueError(
            f"SLURM_ARRAY_TASK_ID={job} is below SLURM_ARRAY_TASK_MIN={first}, so it is not known "
            "which worker this is; unset what is left of another job, or give --worker K/N"
        )
    count = _number(environment, "SLURM_ARRAY_TASK_COUNT") or 1
    last = _number(environment, "SLURM_ARRAY_TASK_MAX") or first + step * (count - 1)
    jobs = (max(job, last) - first) // step + 1  # more than the count in an array such as 1,2,5
    return (job - first) // step * tasks + task, jobs * tasks


def _number(environment: Environment, name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None


@dataclass
class Counter:
    """Draws 0, 1, ... from a counter in the store of torchrun's agent; None once that is lost.

    The store is new after a restart, and then it counts from 0 again.
    """

    host: str
    port: int
    key: str
    store: Any = None  # torch's types hide it
    lost: bool = False

    @classmethod
    def of_agent(cls, environment: Environment) -> "Counter | None":
        """None where no agent has a store."""
        port = _number(environment, "MASTER_PORT")
        if port is None or environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return None
        names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
        key = "/".join(("drs_fast", *(environment.get(name, "") for name in names)))
        return cls(environment.get("MASTER_ADDR", "localhost"), port, key)

    def __call__(self) -> int | None:
        if not self.lost:
            try:
                if self.store is None:
                    at = (self.host, self.port)
                    self.store = distributed.TCPStore(*at, None, False, CONNECTING)  # type: ignore
                return int(self.store.add(self.key, 1)) - 1
            except RuntimeError:  # of torch.distributed
                self.lost = True
        return None
