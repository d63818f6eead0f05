"""Repairs to Triton's interpreter; import before the first launch.

Run-time loop bounds are arrays of one element, which NumPy 2.4 and newer do not take for whole numbers (Triton 3.6),
and tl.dot multiplies the bit patterns of bfloat16 as if they were integers (3.6 to 3.9).
The language is patched once a launch, and not again for every function that a kernel calls: that took most of the time.
"""

from typing import Any

import numpy as np
import triton.language as tl
import triton.runtime.interpreter as interpreter

_patch_tensor = interpreter._patch_lang_tensor
_create_dot = interpreter.InterpreterBuilder.create_dot


def _patch_tensor_index(tensor: Any, scope: Any) -> None:
    _patch_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(np.asarray(self.handle.data).reshape(-1)[0]))


def _widen(x: Any) -> Any:
    if x.dtype.scalar != tl.bfloat16:
        return x
    return interpreter.TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


def _create_dot_float(self: Any, a: Any, b: Any, d: Any, precision: Any, imprecise: Any) -> Any:
    return _create_dot(self, _widen(a), _widen(b), d, precision, imprecise)


interpreter._patch_lang_tensor = _patch_tensor_index
interpreter.InterpreterBuilder.create_dot = _create_dot_float


_patch_lang = interpreter._patch_lang
_call = interpreter.InterpretedFunction.__call__
_inside: list[Any] = []  # functions that kernels have called and that have not returned
_patched: set[tuple[bool, bool]] = set()  # since the launch: whether triton.language and its core


def _patch_lang_once(fn: Any) -> Any:
    modules = [x for x in fn.__globals__.values() if x is tl or x is tl.core]
    seen = (tl in modules, tl.core in modules)
    if not _inside:
        _patched.clear()
    elif seen in _patched:
        return None
    _patched.add(seen)
    return _patch_lang(fn)


def _call_inside(self: Any, *args: Any, **kwargs: Any) -> Any:
    _inside.append(self)
    try:
        return _call(self, *args, **kwargs)
    finally:
        _inside.pop()


interpreter._patch_lang = _patch_lang_once
interpreter.InterpretedFunction.__call__ = _call_inside
