"""What a sampler is: the one contract between samplers and what runs them."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType, MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torch import Tensor

from drs_fast.core.batch import Batch
from drs_fast.core.compacted import Ring
from drs_fast.core.rng import Rng

if TYPE_CHECKING:
    from drs_fast.gan import GAN
    from drs_fast.samplers.common.expected import Expected, Pilot


UNKNOWN, EQUAL, LOGIT, BATCH = WAYS = "unknown", "equal", "logit", "batch"  # to find weights


class Nothing(NamedTuple):
    """The state of a sampler that finds nothing in burn-in."""


class Found(NamedTuple):
    """What a burn-in found, as a run needs it to plan its steps and to explain a famine."""

    acceptance: float  # expected share of rows that become samples
    calls: float = 1.0  # expected share of rows that G and D see
    spent: int = 0  # calls of G and D in burn-in
    judged: Tensor | None = None  # (n,) what burn-in saw of n proposals; None: nothing was kept
    unit: str = "logits"  # what `judged` holds, in words
    limits: Mapping[str, Tensor] = MappingProxyType({})  # what `judged` is held against, by name


class Recorded(NamedTuple):
    """What a run on disk holds of its sampler."""

    state: Any  # as `init` returned it
    tallies: dict[str, int]
    proposals: int
    eps: float  # of the acceptance probability; 0 where there is none
    remark: str


class Thresholds(NamedTuple):
    """What a row is accepted by: log_m and gamma are (), or (K,) if each class has its own."""

    log_m: Tensor
    gamma: Tensor
    eps: float

    def of_rows(self, y: Tensor | None) -> dict[str, Any]:
        """The same for rows with labels (n,), as `ops` take it."""
        log_m, gamma = self.log_m, self.gamma
        if log_m.ndim and y is not None:
            log_m, gamma = log_m[y], gamma[y]
        return {"log_m": log_m, "gamma": gamma, "eps": self.eps}


class Bounded(NamedTuple):
    """Rows whose logits a bound was compared with, (n,) each."""

    ids: Tensor  # int64
    logit: Tensor
    bound: Tensor
    chance: Tensor  # with which each row was chosen
    proposed: Tensor  # (K,) how often the run proposes each class; (0,): as often as the GAN does


class Remade(NamedTuple):
    """Samples of a run that were made again."""

    x: Tensor  # (n, ...) as G makes them, before they are stored
    z: Tensor  # (n, d)
    logit: Tensor | None  # (n,), if asked for


class Described(NamedTuple):
    """What `drs-fast report` says and draws of a run, beside what all have in common."""

    lines: dict[str, str]  # what to say, by name
    limits: Mapping[str, Tensor] = MappingProxyType({})  # numbers that burn-in froze, by name
    above: str = "logits above log_m"  # what the counter `above` counts
    logits: Tensor | None = None  # (n,) of burn-in's proposals
    thresholds: Thresholds | None = None  # what those logits are accepted by
    bounded: Bounded | None = None


class Sampler(ABC):
    """A sampler: a frozen dataclass, all fields with defaults, derived from this class.

    `law`, `init` and `step` are all that must be written; the rest has defaults. Tensors live in
    the state, never in the sampler. ClassVars may be overridden by properties, and the other way
    round.

    State: the named tuple of tensors that `init` returns; a run on disk keeps it by field name.
    law_version: raised when other samples come out of the same fields.
    later: fields that came later, with the values at which manifests leave them out.
    """

    State: ClassVar[Any] = Nothing
    law_version: ClassVar[int] = 1
    later: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]  # @dataclass adds it

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        if "__repr__" not in cls.__dict__:  # else @dataclass writes one that shows every default
            cls.__repr__ = Sampler.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        """How to write it: what is not so by default."""
        if not dataclasses.is_dataclass(self):  # which `checked` refuses, and names
            return object.__repr__(self)
        given = (
            f"{field.name}={_shown(value)}"
            for field in dataclasses.fields(self)
            if not _usual(value := vars(self)[field.name], field.default)
        )
        return f"{type(self).__name__}({', '.join(given)})"

    # What must be written.

    @property
    @abstractmethod
    def law(self) -> str:
        """The distribution of the samples in one line: "data" if exact when the logit is."""

    @abstractmethod
    def init(self, gan: "GAN", rng: Rng) -> Any:
        """The state. Burn-in: everything that changes the law is found here and frozen."""

    @abstractmethod
    def step(
        self, gan: "GAN", state: Any, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[Any, Batch]:
        """N latents in (rows rng.row, rng.row + 1, ...), at most N finished rows out.

        Returns the state too: the one it was given, unless `sequential`.
        """

    # What it takes and gives.

    @property
    def group(self) -> int:
        """Rows that belong together: 1 for rejection, K where K candidates compete."""
        return 1

    @property
    def sequential(self) -> bool:
        """Whether the state changes from step to step, so that rows must be taken in order."""
        return False

    @property
    def energy(self) -> bool:
        """Whether any critic's score will do; otherwise a log density ratio is needed."""
        return False

    @property
    def unadjusted(self) -> bool:
        """Whether it follows gradients, and no Metropolis test makes up for a logit that jumps."""
        return "gradients" in self.tallies

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """Functions that the samples depend on; a run on disk knows their sha256."""
        return ()

    def data(self, gan: "GAN") -> tuple[Tensor | None, ...]:
        """Tensors that the samples depend on; a run on disk knows their sha256."""
        return ()

    def probed(self, gan: "GAN", z: Tensor, y: Tensor | None = None) -> tuple[Tensor, ...]:
        """What the functions give for these latents; a run on disk goes on only if they agree."""
        return ()

    # After burn-in.

    def found(self, state: Any) -> Found:
        """What burn-in found; the default expects one sample of every group."""
        return Found(1.0 / self.group)

    def facts(self, state: Any) -> dict[str, Any]:
        """What the manifest keeps beside the state; its `remark`, a line, is shown to the user."""
        return {}

    def settled(
        self,
        gan: "GAN",
        recorded: Callable[[], Mapping[str, Any] | None] = lambda: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> "Sampler":
        """This sampler with by name what time decides, before a run begins.

        recorded: gives its fields in the manifest of a run that goes on, which it then obeys. say:
        told in a line what was found.
        """
        return self

    def choice(self, state: Any) -> tuple["Sampler", Any]:
        """Which sampler goes on, with which state; burn-in may have found another to be faster."""
        return self, state

    def proposing(self, gan: "GAN", state: Any) -> "GAN":
        """The GAN with labels as often as a run proposes them.

        If it is another GAN, every class is to have its quota of the samples.
        """
        return gan

    # Weights that make samples follow the law of the data.

    @property
    def weighs(self) -> str:
        """How a sample's weight is found; UNKNOWN by default.

        EQUAL: all weigh the same, where `law` says when that is right. LOGIT: by ops.weight and
        `thresholds`. BATCH: every batch of `step` has its weights.
        """
        return UNKNOWN

    def thresholds(self, gan: "GAN", state: Any) -> Thresholds:
        """What a row is accepted by. Needed unless `weighs` is UNKNOWN or EQUAL."""
        raise NotImplementedError(
            f"{type(self).__name__} has weighs={self.weighs!r}, which needs `thresholds`"
        )

    # Samples of a run, made again.

    def remade(
        self,
        gan: "GAN",
        state: Any,
        ids: Tensor,
        y: Tensor | None,
        rng: Rng,
        *,
        judged: bool = False,
    ) -> Remade:
        """The samples that a run with this state gave these ids (n,) and labels, with its bits.

        rng: Rng(the run's seed). judged: whether their logits are wanted.
        ValueError where ids do not tell samples, which is the default.
        """
        raise ValueError(
            f"{type(self).__name__} does not say that its samples are what G makes of the latents "
            "of their rows; most likely it moves them afterwards. So ids do not tell its samples: "
            "generate again with --save x (and z)"
        )

    # Faster ways to take steps.

    @property
    def appends(self) -> bool:
        """Whether `appending` is there: one CUDA graph then serves every step."""
        return False

    def appending(
        self, gan: "GAN", state: Any, ring: Ring, names: tuple[str, ...]
    ) -> Callable[[Tensor, Tensor | None], None]:
        """A function of (z, y) that does what `step` does for the ring's next rows.

        It adds the samples to the ring, with the named ones of z, y and what `gan.stored(x)` gives.
        Needed if `appends`.
        """
        raise NotImplementedError

    @property
    def draws(self) -> bool:
        """Whether `rows` and `span` are there: it draws latents itself, and G sees few of them."""
        return False

    def rows(self, gan: "GAN", state: Any, rng: Rng, n: int) -> tuple[Any, Batch]:
        """What `step` does for n rows whose latents it draws itself. Needed if `draws`."""
        raise NotImplementedError

    def without_waiting(self, gan: "GAN", state: Any, rng: Rng, n: int) -> tuple[Any, Batch]:
        """As `rows`, but without waiting for a GPU. Needed if `draws`.

        If stats["beyond"] is above 0, the batch lacks rows and is thrown away; `rows` then waits.
        """
        return self.rows(gan, state, rng, n)

    def span(self, gan: "GAN", state: Any, judged: int) -> float:
        """How many rows to try so that G and D see about `judged`. Needed if `draws`."""
        raise NotImplementedError

    # What a run counts, and says of it.

    @property
    def tallies(self) -> tuple[str, ...]:
        """Names of whole numbers in the batches' stats that are summed over a run.

        "gradients" among them says that gradients of the logit are needed.
        """
        return ()

    def capped_at(self, state: Any) -> Tensor | None:
        """The log_m above which `clipped` adds up what the samples miss; None: nowhere."""
        return None

    def measured(self, state: Any, tallies: Mapping[str, int]) -> dict[str, Any]:
        """What the tallies (with `calls` among them) say, for the manifest and stats."""
        return {}

    def exact(self, tallies: Mapping[str, int]) -> bool:
        """Whether a run's tallies show that samples follow the data, where `law` left it open.

        The tallies have `above` and `invalid` among them.
        """
        return False

    def note(self, state: Any, tallies: Mapping[str, int]) -> str:
        """The same in a few words, for a progress bar."""
        return ""

    def check(self, state: Any, tallies: Mapping[str, int]) -> None:  # noqa: B027
        """Raises where the run may not go on."""

    def warning(self, tallies: Mapping[str, int]) -> str | None:
        """What the user should hear of a run that has ended."""
        return None

    @classmethod
    def compared(cls) -> tuple["Sampler", ...]:
        """Settings that a plan compares with those of other samplers."""
        return ()

    def expected(self, gan: "GAN", pilot: "Pilot", rng: Rng) -> "Expected | None":
        """What a run is expected to give; None where a pilot cannot tell."""
        return None

    @property
    def remedies(self) -> tuple[str, ...]:
        """What the user can do with the fields where hardly any row is accepted."""
        return ()

    @classmethod
    def described(cls, run: Recorded) -> Described:
        """What `drs-fast report` says of a run on disk, beside what all have; here its tallies."""
        return Described({name: f"{count:,}" for name, count in run.tallies.items()})


def _usual(value: object, default: object) -> bool:
    """Whether a field has its default; tensors and functions have none that is alike."""
    return value is default or (
        isinstance(value, (str, int, float, tuple))
        and type(value) is type(default)
        and value == default
    )


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return f"<{tuple(value.shape)} {value.dtype}>"
    return value.__name__ if isinstance(value, FunctionType) else repr(value)


def checked(sampler: Any) -> Sampler:
    """The sampler; ValueError unless it is an instance that keeps the contract."""
    if isinstance(sampler, type) or not isinstance(sampler, Sampler):
        raise ValueError(
            f"sampler must be an instance, such as drs.samplers.DRS(), got {sampler!r}; a class of "
            "your own derives from drs_fast.core.Sampler, which has defaults for everything but "
            "law, init and step"
        )
    if not dataclasses.is_dataclass(sampler):
        raise ValueError(
            f"a sampler must be a dataclass, got {type(sampler).__name__}, which is none; write "
            "@dataclass(frozen=True) above it"
        )
    if sampler.weighs not in WAYS:
        raise ValueError(f"weighs must be one of {WAYS}, got {sampler.weighs!r}")
    return sampler


_listed: Callable[[], Iterable[type[Sampler]]] = tuple


def list_samplers(kinds: Callable[[], Iterable[type[Sampler]]]) -> None:
    """Says where samplers are listed, for errors that name those that would do."""
    global _listed
    _listed = kinds


def compared() -> list[Sampler]:
    """The settings of all listed samplers that a plan compares."""
    return [sampler for kind in _listed() for sampler in kind.compared()]


def named(name: str) -> type[Sampler] | None:
    """The listed sampler of this name; None if there is none."""
    return next((kind for kind in _listed() if kind.__name__ == name), None)


def those_that(would_do: Callable[[Sampler], bool]) -> str:
    """The names of listed samplers that, with all their defaults, would do."""
    return ", ".join(kind.__name__ for kind in _listed() if would_do(kind()))
