"""What makes a run on disk this run: its manifest says it, and another is refused."""

import dataclasses
import json
from typing import Any

from drs_fast.core import RNG_VERSION, Sampler, fingerprint
from drs_fast.core.arguments import describe
from drs_fast.gan import GAN, where
from drs_fast.run import called
from drs_fast.run.schedule import Run


def of_run(run: Run, columns: tuple[str, ...]) -> dict[str, Any]:
    """The settings of a run that saves these columns, without the model."""
    gan, options = run.gan, run.options
    settings = {
        "rng_version": RNG_VERSION,
        "sampler": _of_sampler(run.sampler, gan),
        "seed": run.rng.seed,
        "batch_size": gan.block,
        "device": gan.device.type,
        "precision": gan.precision,
        "tune": list(options.tune),
        "save": list(columns),
        "label_weights": gan.label_weights and list(gan.label_weights),
    }
    if gan.images is not None:
        settings |= gan.images.facts
    if functions := of_functions(gan):
        settings["functions_sha256"] = functions
    if options.chunk_rows is not None:
        settings["chunk_rows"] = options.chunk_rows
    return settings


def of_functions(gan: GAN) -> str:
    """The sha256 of the predicates and of `decode`; "" if there are none.

    The model's probe may not tell them apart, because it sees 128 rows.
    """
    predicates = [predicate for predicate, _ in where.conditions(gan)]
    functions = predicates if gan.decode is None else [*predicates, gan.decode]
    if not functions:
        return ""
    return fingerprint.sha256(called.sha256(functions), bool(predicates) and where.believes(gan))


def _of_sampler(sampler: Sampler, gan: GAN) -> dict[str, Any]:
    """Its name, law and plain fields, and the sha256 of the functions and the data it uses."""
    fields = {field.name: getattr(sampler, field.name) for field in dataclasses.fields(sampler)}
    usual = sampler.later
    plain = {
        name: value
        for name, value in fields.items()
        if not callable(value) and not (name in usual and value == usual[name])
    }
    functions, named = sampler.functions, {}
    if functions:
        named["functions_sha256"] = called.sha256(functions)
    if data := sampler.data(gan):
        named["data_sha256"] = fingerprint.sha256(*data)
    for name, value in plain.items():
        _check_field(sampler, name, value)
    nested = {
        name: _of_sampler(value, gan) for name, value in plain.items() if isinstance(value, Sampler)
    }
    return {
        "name": type(sampler).__name__,
        "law_version": sampler.law_version,
        **plain,
        **nested,
        **named,
    }


def _check_field(sampler: Sampler, name: str, value: Any) -> None:
    """ValueError unless a manifest can hold the field's value."""
    try:
        json.dumps(None if isinstance(value, Sampler) else value, sort_keys=True)
    except TypeError:
        raise ValueError(
            f"{name} of {type(sampler).__name__} must be a number, a string, a list of these, or a "
            f"function to be kept in a manifest, got {describe(value)}; convert it in __post_init__"
        ) from None
