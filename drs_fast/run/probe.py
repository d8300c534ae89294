"""Whether a run goes on with the model that it was begun with.

The manifest keeps three facts: `weights_sha256` of what was learnt, `probe_sha256` of what G and D
give for some rows, and `model_sha256` of all that a walk through the model finds. Weights and probe
decide, because calls leave caches and counters behind, and another Python compiles other code. Only
of a model that gives other numbers in every call, and has no probe, must all that is found agree.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch

from drs_fast import ops
from drs_fast.core import PROBE_ROW, Rng, Sampler, fingerprint
from drs_fast.core.loose import loose
from drs_fast.gan import GAN, SMALLEST, classes
from drs_fast.store import Conflict

WEIGHTS, MODEL, PROBE = "weights_sha256", "model_sha256", "probe_sha256"
Made = TypeVar("Made")
ROWS = SMALLEST  # a call for fewer is padded to as many


def kept(
    gan: GAN,
    model: str,
    manifest: Mapping[str, object] | None,
    complete: bool,
    sampler: Sampler | None = None,
    check: Callable[[], None] = lambda: None,
) -> dict[str, object]:
    """What the manifest of a run keeps of the model: of a run that is there what it was begun with.

    model: the GAN's sha256 from before G and D were called. manifest: what is there so far; None
        if the run is new.
    complete: nothing will be computed; G and D are called only where the model's sha256 differs.
    check: raises an error where a new run must not be begun.
    Raises Conflict where it is another model.
    """
    if manifest is None:
        check()
        return _begun(gan, model, sampler)
    there = {key: manifest[key] for key in (WEIGHTS, MODEL, PROBE) if key in manifest}
    here: dict[str, object] = {MODEL: model}
    if WEIGHTS in there and not (complete and model == there[MODEL]):
        with _unchanged(gan) as changing:
            probe = None if there.get(PROBE) is None else sha256(gan, sampler)
        here |= {WEIGHTS: weights(gan, changing), PROBE: probe}
    deciding = (WEIGHTS, MODEL if here.get(PROBE) is None else PROBE)
    if any(here[key] != there[key] for key in deciding if key in here):
        raise Conflict(_refused(there, here))
    return there


def with_weights(gan: GAN, manifest: Mapping[str, object], call: Callable[[], Made]) -> Made:
    """What the call of G and D returns; Conflict if they have not the weights of the manifest."""
    with _unchanged(gan) as changing:
        made = call()
    found = {WEIGHTS: weights(gan, changing)}
    if WEIGHTS in manifest and manifest[WEIGHTS] != found[WEIGHTS]:
        raise Conflict(_refused({WEIGHTS: manifest[WEIGHTS]}, found))
    return made


def differs(gan: GAN, manifest: Mapping[str, object]) -> bool:
    """Whether G and D are known to give other numbers than at the beginning of the run."""
    there = manifest.get(PROBE)
    with _unchanged(gan):
        return there is not None and sha256(gan) != there


def is_steady(gan: GAN) -> bool:
    """Whether G and D give the same numbers whatever PyTorch's own random numbers are."""
    with _unchanged(gan):
        return sha256(gan) == sha256(gan, seed=1)


def _begun(gan: GAN, model: str, sampler: Sampler | None) -> dict[str, object]:
    with _unchanged(gan) as changing:
        first = sha256(gan, sampler)
        steady = first == sha256(gan, sampler, seed=1)
        again = steady or first == sha256(gan, sampler)
    if not steady:
        warnings.warn(
            "G or D gave other numbers for the same rows on a second call (random numbers inside, "
            "or kernels that add in any order): if this run is interrupted, extended or repaired, "
            "its bytes will differ; `drs-fast doctor` looks for the cause",
            stacklevel=9,
        )
    return {WEIGHTS: weights(gan, changing), MODEL: model, PROBE: first if again else None}


def _refused(there: Mapping[str, object], here: Mapping[str, object]) -> str:
    differing = [key for key in here if here[key] != there.get(key)]
    if WEIGHTS in differing:
        why = "G or D has other weights, or other tensors beside them: give those of the beginning"
    elif WEIGHTS not in here:
        why = (
            "this run was begun by an earlier version, which cannot tell what a call leaves in a "
            "cache from a change: go on with the model, the code and the Python of the beginning, "
            "in a process that has not called the model yet"
        )
    elif here[PROBE] is None:
        why = (
            "the weights are the same, but code or other data differ, and because this model is no "
            "function of its input, nothing tells whether that matters: go on with the code and "
            "the Python of the beginning, in a process that has not called the model yet"
        )
    elif MODEL in differing:
        why = (
            f"the weights are the same, but G and D give other numbers for the same {ROWS} rows, "
            "and code or other data differ too: give those of the beginning, with its versions of "
            "Python and PyTorch"
        )
    else:
        why = (
            f"the weights and the code are the same, but G and D give other numbers for the same "
            f"{ROWS} rows. PyTorch may have another version, run on other hardware or another "
            "number of threads, or tune its kernels (torch.backends.cudnn.benchmark), or the model "
            "depends on something that its sha256 cannot see, such as a file that is read in "
            "forward: go on with the machine, the versions and the files of the beginning"
        )
    lines = [f"  {key}: there {there.get(key)}, here {here[key]}" for key in differing]
    return "\n".join(
        ["this run was begun with another model:", *lines, f"{why}, or choose another directory"]
    )


def weights(gan: GAN, changing: set[int]) -> str:
    """The sha256 of what was learnt, without the tensors of these ids, which calls change."""
    parts = gan.functions
    saved = fingerprint.weights(*parts, changing=changing)
    others = sorted(fingerprint.sha256(one) for one in loose(*parts) if id(one) not in changing)
    return fingerprint.sha256(saved, others) if others else saved


def sha256(gan: GAN, sampler: Sampler | None = None, seed: int = 0) -> str:
    """The sha256 of x and logits of some rows that nothing else reaches, evenly from all classes
    that are proposed.

    sampler: what its functions give for these rows counts too.
    seed: of the random numbers that G and D draw from PyTorch.
    """
    z = ops.latents(gan, Rng(0, PROBE_ROW), ROWS)
    given: tuple[torch.Tensor, ...] = (z,)
    if gan.labels is not None:
        proposed = torch.tensor(classes.occurring(gan.labels, gan.label_weights), device=z.device)
        given = (z, proposed[torch.arange(ROWS, device=z.device) * len(proposed) // ROWS])
    with _seeded(z.device, seed):
        # In blocks, because more rows at once may not fit into memory.
        blocks = [tuple(t[k : k + gan.block] for t in given) for k in range(0, ROWS, gan.block)]
        found = [fingerprint.sha256(*gan.logits(*block)) for block in blocks]
        if gan.decode is not None:
            made = (gan.decoded(gan.samples(*block)) for block in blocks)
            found += [fingerprint.sha256(x) for x in made]
        more = () if sampler is None else (sampler.probed(gan, *block) for block in blocks)
        found += [fingerprint.sha256(*tensors) for tensors in more if tensors]
    return fingerprint.sha256(found)


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Fixes PyTorch's own random numbers, and puts them back where they were.

    The library draws none of them. A G that adds noise does, and without this it had no probe.
    """
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def _unchanged(gan: GAN) -> Iterator[set[int]]:
    """Buffers that a call changes are put back; at the end the set has the ids of these.

    It also has the ids of other tensors and arrays that a call changes.
    """
    changed = set[int]()
    parts = gan.functions
    found = fingerprint.modules(*parts)
    # TorchScript's inner modules can only be found through their outer one.
    modules = {id(module): module for outer in found for module in outer.modules()}
    buffers = [
        (module, name, buffer, buffer.detach().clone(), fingerprint.sha256(buffer))
        for module in modules.values()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    others = [(one, fingerprint.sha256(one)) for one in loose(*parts)]
    try:
        yield changed
    finally:
        for module, name, buffer, value, before in buffers:
            if module._buffers[name] is not buffer:
                module._buffers[name] = buffer
                changed.add(id(buffer))
            if fingerprint.sha256(buffer) != before:
                with torch.inference_mode():
                    buffer.copy_(value)
                changed.add(id(buffer))
        changed.update(id(one) for one, before in others if fingerprint.sha256(one) != before)
