"""Everything that can be wrong with a probe, by name.

All of them are `ProbeError`, a `HeadscopeError` and a `ValueError`: the message names the probe or argument, what was
given, what is accepted, and what to do.
"""

from ..errors import HeadscopeError


class ProbeError(HeadscopeError, ValueError):
    """Something about a probe, a probe set or its ingredients is wrong."""


class EmptyAnswer(ProbeError):
    """There is no answer token, so there is nothing to score."""


class DuplicateId(ProbeError):
    """Two probes of one set carry the same id."""


class HashMismatch(ProbeError):
    """A saved probe set does not contain what it says it contains."""


class ProbeFileError(ProbeError):
    """A file is missing, truncated, or not a saved probe set."""


class TokenizerMismatch(ProbeError):
    """The tokenizer at hand is not the one that made the probe's ids."""


class DoubleBOS(ProbeError):
    """The special tokens that open a sequence are missing, or there more than once."""


class JoinNotCanonical(ProbeError):
    """The tokenizer would cut the text differently where two pieces meet, at every place that was tried."""


class SpanNotFound(ProbeError):
    """The needle is not where it should be, or cannot be located."""


class NeedleLeak(ProbeError):
    """What only the needle should say is also said elsewhere, so finding it proves nothing."""


class AlignmentFailed(ProbeError):
    """No answer token can be traced to the needle alone."""


class LengthTooShort(ProbeError):
    """The length asked for cannot hold the needle, the question and the answer."""


class HaystackTooShort(ProbeError):
    """The haystack holds fewer tokens than the longest probe needs; text is never repeated silently."""


class NoText(ProbeError):
    """A file named .json that holds no text where one is looked for."""


class DepthOutOfRange(ProbeError):
    """A depth is a number from 0 (start of the context) to 1 (end)."""


class PoolTooSmall(ProbeError):
    """More different needles (or token ids) are asked for than there are."""


class NoChatTemplate(ProbeError):
    """`chat=True` and the tokenizer cannot render a chat."""


class UnknownSet(ProbeError):
    """There is no built-in probe set of that name."""
