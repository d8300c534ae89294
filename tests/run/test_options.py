"""The options of a run: one truth for `generate`, `stream`, `plan` and the command line."""

import dataclasses
import inspect

import numpy as np
import pytest

import drs_fast as drs
from drs_fast.cli.parser import parser
from drs_fast.run.options import Options

DEFAULTS = {field.name: field.default for field in dataclasses.fields(Options)}
# What is no option of a run; a plan tries several batch sizes unless one is given.
OTHERS = {
    drs.generate: {"out"},
    drs.stream: set(),
    drs.plan: {"n", "batch_size", "budget", "squeeze"},
}
COMMAND = ["generate", "MODEL", "-n", "1", "--out", "DIR"]


@pytest.mark.parametrize("function", OTHERS, ids=lambda function: function.__name__)
def test_signatures_have_the_defaults(function):
    signature = inspect.signature(function).parameters.values()
    named = {p.name: p.default for p in signature if p.kind is p.KEYWORD_ONLY}
    options = {name: default for name, default in named.items() if name not in OTHERS[function]}
    assert options == {name: DEFAULTS[name] for name in options}
    assert function is not drs.generate or options.keys() == DEFAULTS.keys()


def test_the_command_line_has_the_defaults():
    given = vars(parser(COMMAND).parse_args(COMMAND))
    assert {name: given[name] for name in DEFAULTS} == {**DEFAULTS, "progress": True}


def test_options_are_put_in_order():
    options = Options(
        seed=np.uint64(2**63), batch_size=np.int32(300), save=("logit", "ids", "x"), tune="compile"
    )
    assert (options.seed, options.batch_size) == (2**63, 512)
    assert type(options.seed) is type(options.batch_size) is int
    assert (options.save, options.tune) == (("x", "logit"), ("compile",))
    assert dataclasses.replace(options) == options


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": -1}, r"seed must be an integer in \[0, 2\^64\), got -1"),
        ({"batch_size": 0}, r"batch_size must be an integer in \[1, 2\^31\), got 0"),
        ({"batch_size": None}, r"batch_size must be an integer in \[1, 2\^31\), got NoneType"),
        ({"patience": 0}, "patience must be an integer >= 1, got 0"),
        ({"max_proposals": 0}, "max_proposals must be an integer >= 1, got 0"),
        ({"max_seconds": 0}, "max_seconds must be greater than 0, got 0"),
        ({"max_seconds": -1.5}, "max_seconds must be greater than 0, got -1.5"),
        ({"max_seconds": float("nan")}, "max_seconds must be greater than 0, got nan"),
        ({"max_seconds": float("inf")}, "max_seconds must be greater than 0, got inf"),
        ({"max_seconds": "1h"}, "max_seconds must be greater than 0, got '1h'"),
        ({"max_seconds": True}, "max_seconds must be greater than 0, got True"),
        ({"chunk_rows": 1.5}, "chunk_rows must be an integer >= 1, got 1.5"),
        ({"save": ("y",)}, r"save must be of x, z, logit, weight \(ids always\), got 'y'"),
        (
            {"tune": "fast"},
            "tune must be auto, or from fold, cast, channels_last, compile, got 'fast'",
        ),
        ({"worker": "2"}, "worker must be like '2/8', the second of eight, got '2'"),
        ({"worker": "1/2", "tune": "auto"}, "tune='auto' of several workers would choose"),
        ({"only": 0, "label_weights": [1.0]}, "got both only and label_weights"),
    ],
)
def test_wrong_options(wrong, message):
    with pytest.raises(ValueError, match=message):
        Options(**wrong)


@pytest.mark.parametrize(("rows", "fits"), [(12, True), (3, True), (9, False), (1, False)])
def test_chunks_are_of_whole_groups(rows, fits):
    options = Options(chunk_rows=rows)
    if fits:
        options.check_group(3)
    else:
        with pytest.raises(
            ValueError, match=rf"must be 3 times a power of two, such as \d+, got {rows}"
        ):
            options.check_group(3)
