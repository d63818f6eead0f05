"""Everything that can be wrong with a probe, by name.

All of them are `ProbeError`, which is a `ValueError`: the message names the probe or argument, what was given,
what is accepted, and what to do.
"""


class ProbeError(ValueError):
    """Something about a probe, a probe set or its ingredients is wrong."""


class EmptyAnswer(ProbeError):
    """There is no answer token, so there is nothing to score."""


class DuplicateId(ProbeError):
    """Two probes of one set carry the same id."""


class HashMismatch(ProbeError):
    """A saved probe set does not contain what it says it contains."""


class ProbeFileError(ProbeError):
    """A file is missing, truncated, or not a saved probe set."""
