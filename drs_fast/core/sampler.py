"""What a sampler is."""

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor

from drs_fast.core.batch import Batch
from drs_fast.core.rng import Rng

if TYPE_CHECKING:
    from drs_fast.gan import GAN


class Sampler(Protocol):
    """A frozen dataclass whose fields all have defaults; tensors live in the state.

    A sampler may also have
    appending(gan, state, ring, names): returns a function of (z, y) that does what `step` does for
        the ring's next rows, and appends the named ones of x, z and y;
    tallies: names of whole numbers in the batches' stats, which are added up over a run;
    energy: True if any critic's score will do; otherwise a log density ratio is needed;
    rows(gan, state, rng, n), span(state): what `step` does for n rows whose latents the sampler
        draws itself, and how many rows it tries per row that G and D see;
    choice(state), remark(state): which sampler to run with which state after burn-in, and why;
    measured(state, tallies), note(state, tallies), check(state, tallies), warning(tallies): what
        the tallies (with `calls` among them) mean: for manifest and stats; in a few words; as an
        error if a run must stop; and as a warning to the user;
    capped_at(state): the log_m above which `ratio.clipped` adds up what the samples miss;
    proposing(gan, state): the GAN, with labels as frequent as a run proposes them; it is another
        GAN if every class has a quota of the samples;
    functions, data(gan): what its samples depend on besides plain fields and the networks; a run on
        disk keeps their sha256.
    """

    State: ClassVar[Any]  # a named tuple of tensors
    law_version: ClassVar[int]  # raised when the same fields give other samples

    @property
    def group(self) -> int:
        """Rows that belong together: 1 for rejection, K if K candidates compete."""
        ...

    @property
    def sequential(self) -> bool:
        """Whether the state changes from step to step, so that rows must be taken in order."""
        ...

    @property
    def law(self) -> str:
        """The law: the distribution that the samples follow. "data" if p_data for exact logits."""
        ...

    def init(self, gan: "GAN", rng: Rng) -> Any:
        """Burn-in: everything the law depends on is found here and then frozen."""
        ...

    def step(
        self, gan: "GAN", state: Any, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[Any, Batch]:
        """Takes N latents (rows rng.row, rng.row + 1, ...), returns at most N finished rows."""
        ...
