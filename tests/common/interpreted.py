"""Triton's interpreter, which prepares its language at every call of a function, made faster."""

import triton.language as tl
from triton.runtime import interpreter

prepare = interpreter._patch_lang


def prepare_once(fn):
    """Leaves out what the launch has prepared already, which took a third of the time."""
    languages = [each for each in fn.__globals__.values() if each is tl or each is tl.core]
    if any(tl.core.is_builtin(language.load) for language in languages):
        return prepare(fn)
    return interpreter._LangPatchScope()


def hasten():
    interpreter._patch_lang = prepare_once
