"""What a sampler is."""

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor

from drs_fast.core.batch import Batch
from drs_fast.core.rng import Rng

if TYPE_CHECKING:
    from drs_fast.gan import GAN


class Sampler(Protocol):
    """A frozen dataclass, all fields with defaults; tensors live in the state.

    A sampler may also have
    appending(gan, state, ring, names): returns a function of (z, y) that does what `step` does for
        the ring's next rows, and adds the named ones of x, z and y;
    tallies: names of whole numbers in the batches' stats that are summed up over a run;
    energy: True where any critic's score will do; otherwise a log density ratio is needed;
    rows(gan, state, rng, n), span(state): what `step` does for n rows whose latents it draws
        itself, and how many rows it takes for one that G and D see;
    choice(state), remark(state): which sampler to run with which state after burn-in, and why;
    measured(state, tallies), note(state, tallies), check(state, tallies), warning(tallies): what
        tallies say, to the manifest and stats (with `calls` among them), in a few words, an error
        where a run may not go on, and what the user should hear;
    capped_at(state): the log_m above which `ratio.clipped` adds up what the samples miss;
    proposing(gan, state): the GAN with labels as often as a run proposes them, which is another one
        where every class is to have its quota of the samples;
    functions, data(gan): what its samples depend on beside plain fields and the networks; a run on
        disk knows their sha256.
    """

    State: ClassVar[Any]  # a named tuple of tensors
    law_version: ClassVar[int]  # raised when other samples come out of the same fields

    @property
    def group(self) -> int:
        """Rows that belong together: 1 for rejection, K where K candidates compete."""
        ...

    @property
    def sequential(self) -> bool:
        """Whether the state changes from step to step, so that rows must be taken in order."""
        ...

    @property
    def law(self) -> str:
        """ "data" if the output follows p_data when the logit is exact, else what it follows."""
        ...

    def init(self, gan: "GAN", rng: Rng) -> Any:
        """Burn-in: everything that changes the law is found here and frozen."""
        ...

    def step(
        self, gan: "GAN", state: Any, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[Any, Batch]:
        """N latents in (rows rng.row, rng.row + 1, ...), at most N finished rows out."""
        ...
