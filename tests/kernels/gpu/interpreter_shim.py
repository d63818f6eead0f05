"""Two repairs to Triton's interpreter; import before the first launch.

Run-time loop bounds are arrays of one element, which NumPy 2.4 and newer do not take for whole numbers (Triton 3.6),
and tl.dot multiplies the bit patterns of bfloat16 as if they were integers (3.6 to 3.9).
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
