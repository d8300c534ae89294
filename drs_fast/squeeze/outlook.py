"""What a bound can bring at most, and what its search takes: known before the search."""

import torch

from drs_fast.samplers.common.expected import Expected
from drs_fast.squeeze.proposals import LEAST
from drs_fast.squeeze.remarks import NO_TIME, TOO_LITTLE, TOO_LONG
from drs_fast.squeeze.sampler import Squeeze
from drs_fast.squeeze.search import HORIZON, LEAST_WORK, MOST_WORK, ROWS, WORTH, needed
from drs_fast.squeeze.work import Costs, in_the_time_of


def outlook(squeezed: Squeeze, found: Expected, costs: Costs, device: torch.device) -> Expected:
    """Why a search would find no bound, else its work and the gain by a bound without a flaw.

    found: what is expected of the sampler without a bound.
    """
    acceptance = max(found.acceptance, LEAST)
    without, best = costs.without(acceptance), costs.with_the_best_network(acceptance)
    least = in_the_time_of(LEAST_WORK, device) + ROWS[0] * costs.call
    checked = needed(squeezed.tolerance, squeezed.unseen) / acceptance * costs.call
    if best >= WORTH * without:
        return Expected(acceptance, remark=TOO_LITTLE)
    if HORIZON * (without - best) <= least:
        return Expected(acceptance, remark=NO_TIME)
    if checked > in_the_time_of(MOST_WORK, device):
        return Expected(acceptance, remark=TOO_LONG)
    a_row = costs.row + costs.call
    return Expected(acceptance, search=(least + checked) / a_row, gain=without / best)
