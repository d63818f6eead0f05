"""Whole-document mode: what every head copies on natural text, over all rows, without a needle.

run.py is the way in, counting.py what attention leaves behind, possible.py the denominator, profile.py the result,
file.py its file.
"""

from .file import check_target
from .profile import CopyProfile
from .run import copy_profile

__all__ = ["CopyProfile", "check_target", "copy_profile"]
