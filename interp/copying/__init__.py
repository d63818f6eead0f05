"""Whole-document mode: what every head copies on natural text, over all rows, without a needle.

run.py is the way in, counting.py what attention leaves behind, possible.py the denominator, profile.py the result,
file.py its file.
"""

from typing import TYPE_CHECKING, Any

from .file import check_target
from .profile import CopyProfile

if TYPE_CHECKING:
    from .run import copy_profile

__all__ = ["CopyProfile", "check_target", "copy_profile"]


def __getattr__(name: str) -> Any:
    if name == "copy_profile":  # with torch and transformers, which take seconds that reading a file does not need
        from .run import copy_profile

        return copy_profile
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
