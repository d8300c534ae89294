"""The ways to run a sampler's steps: by a call of `step`, or by appending to a ring.

On a GPU the ring keeps the next row, the cursor and the counts, so that one CUDA graph (draw z, G,
D, accept) serves every step, and the host reads the counts of steps that ended long ago.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import Batch, Rng, Sampler
from drs_fast.core.arguments import describe
from drs_fast.core.batch import unweighed
from drs_fast.core.compacted import RING_ABOVE, RING_CURSOR, RING_INVALID
from drs_fast.core.sampler import BATCH
from drs_fast.gan import GAN, calls
from drs_fast.run.collected import Rows
from drs_fast.run.graph import captured
from drs_fast.run.replayed import Replayed
from drs_fast.run.steps import Landed, Lane, Readings, Step
from drs_fast.run.stopwatch import ACCEPT, DRAW, LAUNCH, Stopwatch

WARM_UP = 2  # batches before the capture: they compile kernels and choose algorithms
BATCHES = 8  # most batches in a step, which share the host's work for that step
RING_BYTES = 2**28  # of samples; if they are large, a step has fewer batches
MOST_LACKING = 2  # steps that lack room, before all others wait for the device instead
MOST_ROWS = 2**24  # in a step of a sampler that draws latents itself
CALL_BYTES = 2**20  # of rows per decision on a CPU: small batches wait in its caches


def lane(
    gan: GAN,
    sampler: Sampler,
    state: Any,
    rng: Rng,
    size: int,
    example: Rows,
    graph: bool,
    watch: Stopwatch,
) -> Lane:
    """The fastest lane that the sampler and the device allow, for steps of `size` rows.

    example: one row with everything that is wanted. graph: whether to try a CUDA graph.
    """
    if sampler.appends:
        return Appending(gan, sampler, state, rng, size, example, graph, watch)
    if graph and sampler.draws and gan.device.type == "cuda":
        gan = gan.wrapped(Replayed)
    return Stepping(gan, sampler, state, rng, size, example, watch)


class Stepping:
    """A lane that calls `step`, which returns samples in tensors of their own."""

    def __init__(
        self,
        gan: GAN,
        sampler: Sampler,
        state: Any,
        rng: Rng,
        size: int,
        example: Rows,
        watch: Stopwatch,
    ) -> None:
        self._parts = watch.parts(gan.device)
        self._gan, self._rng = gan.timed(self._parts.on), rng
        self._sampler, self._state = sampler, state
        self._example, self.most_rows = dict(example), size
        if sampler.draws:
            room = RING_BYTES // (size * sum(row.nbytes for row in example.values()))
            batches = max(1, min(BATCHES, room))
            rows = sampler.span(gan, state, batches * size)
            self.most_rows = size * max(1, min(MOST_ROWS, int(rows)) // size)
        if sampler.weighs == BATCH:  # there anyway, and what progress says rests on it
            self._example["weight"] = example["logit"].double()
        self._tallies = sampler.tallies
        self._lacking = 0  # steps that lacked room, and were done again
        self._readings = Readings(gan.device, watch)
        self.in_flight = self._readings.in_flight

    def launch(self, step: Step) -> Callable[[], Landed]:
        waiting = not self._readings.lagging or self._lacking >= MOST_LACKING
        return self._launched(step, waiting)

    def _launched(self, step: Step, waiting: bool) -> Callable[[], Landed]:
        with self._parts.batch(step.size):
            self._state, batch = self._stepped(self._rng.at(step.row), step.size, waiting)
        if self._sampler.weighs == BATCH and batch.weigh is unweighed:
            raise ValueError(
                f"{type(self._sampler).__name__} has weighs='batch', so step must return batches "
                "with their weights, got one without: give Batch(..., weigh=a function that "
                "returns them, (N,) float64)"
            )
        stored = self._gan.stored(batch.x)
        given = {
            name: stored[name] if name in stored else getattr(batch, name) for name in self._example
        }
        for name, like in self._example.items():
            if not calls.alike(given[name], like):
                raise ValueError(
                    f"{type(self._sampler).__name__} must return {name} like {describe(like)}, "
                    f"got {describe(given[name])}"
                )
        names = ("invalid", "above", "beyond", *self._tallies)
        seen = batch.stats.get("calls", torch.full_like(batch.count, step.size))
        counts = [batch.count, seen, *(batch.stats.get(name) for name in names)]
        words = [torch.zeros_like(batch.count) if count is None else count for count in counts]
        counted = torch.stack([word.to(batch.ids.device).long() for word in words])
        read = counted.tolist if waiting else self._readings.take(counted)

        def land() -> Landed:
            accepted, calls, invalid, above, beyond, *others = read()
            if beyond:
                self._lacking += 1
                return self._launched(step, waiting=True)()
            rows = {name: tensor[:accepted] for name, tensor in given.items()}
            named = dict(zip(self._tallies, others, strict=True))
            pieces = [rows] if accepted else []
            return Landed(step, pieces, accepted, invalid, above, calls, named)

        return land

    def _stepped(self, rng: Rng, size: int, waiting: bool) -> tuple[Any, Batch]:
        if self._sampler.draws:
            rows = self._sampler.rows if waiting else self._sampler.without_waiting
            with self._parts.on(ACCEPT):
                return rows(self._gan, self._state, rng, size)
        with self._parts.on(DRAW):
            z, y = ops.latents(self._gan, rng, size), ops.labels(self._gan, rng, size)
        with self._parts.on(ACCEPT):
            return self._sampler.step(self._gan, self._state, z, y, rng)


class Appending:
    """A lane in which the sampler appends to a ring; on a GPU as one CUDA graph."""

    def __init__(
        self,
        gan: GAN,
        sampler: Sampler,
        state: Any,
        rng: Rng,
        size: int,
        example: Rows,
        graph: bool,
        watch: Stopwatch,
    ) -> None:
        self._watch, self._parts = watch, watch.parts(gan.device)
        gan = gan.timed(self._parts.on)
        self._gan, self._rng = gan, rng
        self._readings = Readings(gan.device, watch)
        self.in_flight = self._readings.in_flight
        self._names = tuple(name for name in example if name not in ("ids", "logit"))
        rows = [example[name] for name in self._names]
        steps = self.in_flight + 1
        batch_bytes = size * (12 + sum(row.nbytes for row in rows))
        self.most_rows = size * max(1, min(BATCHES, RING_BYTES // (steps * batch_bytes)))
        if not self._readings.lagging:
            size = min(self.most_rows, size * max(1, CALL_BYTES // batch_bytes))
        self._size = size
        like = [row.expand(size, *row.shape[1:]) for row in rows]
        logit = torch.empty(1, dtype=torch.float32, device=gan.device).expand(size)
        room = 1 << (steps * self.most_rows - 1).bit_length()
        self.ring = ops.ring(logit, *like, rng=rng, capacity=room, log_m=0.0)
        self._step = sampler.appending(gan, state, self.ring, self._names)
        self._drawn = Drawn(gan, rng)
        self._numbers = torch.arange(size, device=gan.device) if self._readings.lagging else None
        self._next = rng.row
        self._before = (0, 0, 0)  # cursor, invalid and above after the last step that landed
        self._until_capture = WARM_UP if graph and self._numbers is not None else -1
        self._captured: Callable[[], None] | None = None
        self._replay: Callable[[], None] | None = None

    def launch(self, step: Step) -> Callable[[], Landed]:
        if step.row != self._next:
            self.ring.row.fill_(step.row)
        self._next = step.row + step.size
        with self._watch.on(LAUNCH):
            for row in range(step.row, self._next, self._size):
                self._batch(row, min(self._size, self._next - row))
        read = self._readings.take(self.ring.state)
        return lambda: self._land(step, read())

    def _batch(self, row: int, size: int) -> None:
        if size < self._size:
            self._append(row, size)
        elif self._replay is not None:
            self._replay()
            self._parts.replayed(size)
        elif self._until_capture == 0:
            with self._watch.on("capture"):
                self._capture(row)
        else:
            with self._parts.batch(size):
                self._append(row, size)
            self._until_capture -= 1

    def _append(self, row: int, size: int) -> None:
        """Runs one batch. On a GPU its rows are the ring's next ones, whatever `row` is."""
        with self._parts.on(DRAW):
            if self._numbers is None:
                z, y = self._drawn.rows(row, size)
            else:
                ids = self._numbers[:size] + self.ring.row
                z = ops.latents(self._gan, self._rng, size, ids=ids, consecutive=True)
                y = ops.labels(self._gan, self._rng, size, ids=ids)
        with self._parts.on(ACCEPT):
            self._step(z, y)

    def _land(self, step: Step, words: list[int]) -> Landed:
        cursor, invalid, above = (words[at] for at in (RING_CURSOR, RING_INVALID, RING_ABOVE))
        start, capacity = self._before[0], len(self.ring.ids)
        rows = []
        while start < cursor:  # twice if the ring wraps around in between
            first = start % capacity
            count = min(cursor - start, capacity - first)
            rows.append(self._piece(first, first + count))
            start += count
        counts = [
            new - old for new, old in zip((cursor, invalid, above), self._before, strict=True)
        ]
        self._before = cursor, invalid, above
        return Landed(step, rows, counts[0], counts[1], counts[2], calls=step.size)

    def _piece(self, begin: int, end: int) -> Rows:
        named = dict(zip(self._names, self.ring.rows, strict=True))
        tensors = {"ids": self.ring.ids, "logit": self.ring.logit, **named}
        return {name: tensor[begin:end] for name, tensor in tensors.items()}

    def _capture(self, row: int) -> None:
        """Runs a batch by call and by replay; if both give the same rows, replays later batches."""
        before = self.ring.state.clone()

        def run(call: Callable[[], None]) -> list[Tensor]:
            self.ring.state.copy_(before)
            call()
            slots = torch.arange(
                int(before[RING_CURSOR]), int(self.ring.cursor), device=before.device
            )
            slots &= len(self.ring.ids) - 1
            rows = [tensor[slots] for tensor in (*self.ring.rows, self.ring.ids, self.ring.logit)]
            return [tensor.view(torch.uint8) for tensor in (*rows, self.ring.state.clone())]

        def append() -> None:
            self._append(row, self._size)

        try:
            if self._captured is None:
                self._captured = captured(append, self.ring.ids.device)
        except (RuntimeError, ValueError) as error:
            reason = str(error.__context__ or error).split("\n")[0]
        else:
            expected, found = run(append), run(self._captured)
            if all(map(torch.equal, expected, found)):
                if len(expected[0]):  # otherwise there was nothing to compare
                    self._replay = self._captured
                return
            reason = "a replay returns other bytes than a call; does G or D draw random numbers?"
        run(append)
        self._captured, self._until_capture = None, -1
        warnings.warn(
            f"G and D cannot run as a CUDA graph, so they are called ({reason})", stacklevel=2
        )


class Drawn:
    """Draws the latents and labels of the next rows, several steps ahead."""

    BYTES = 2**20

    def __init__(self, gan: GAN, rng: Rng) -> None:
        self._gan, self._rng = gan, rng
        self._row = self._end = 0
        self._z: Tensor
        self._y: Tensor | None

    def rows(self, row: int, size: int) -> tuple[Tensor, Tensor | None]:
        if not self._row <= row <= row + size <= self._end:
            # Twice as many as last time, so that a few samples need only a few latents.
            room = min(self.BYTES // (4 * self._gan.latent_dim), 2 * (self._end - self._row))
            steps = max(1, room // size)
            rng, self._row, self._end = self._rng.at(row), row, row + steps * size
            self._z = ops.latents(self._gan, rng, steps * size)
            self._y = ops.labels(self._gan, rng, steps * size)
        own = slice(row - self._row, row - self._row + size)
        return self._z[own], None if self._y is None else self._y[own]
