"""Errors: everything that headscope raises on purpose is a HeadscopeError, and the built-in that fits beside it.

>>> try: scores = hs.score_heads(model, probes)
>>> except hs.errors.HeadscopeError as error: print(error)    # one line: what was given, what is accepted, what to do

The rooms import the base and the two for arguments from here, so this file imports no room: each of the others lives
where it is raised, and is imported on first use.

HeadscopeError        the base of all

ArgumentError         an argument has a value that cannot be used                                     (ValueError)
ArgumentTypeError     an argument is of a kind that cannot be used                                     (TypeError)
UsageError            the command line asks for something that cannot be done                         (ValueError)
MissingPackageError   what was asked needs a package that is not installed                           (ImportError)
KernelError           the Triton kernels cannot run here, or are wrong                              (RuntimeError)
ModelError            a model, its weights or its tokenizer cannot be loaded                          (ValueError)
CaptureError          a model's attention cannot be followed exactly                                  (ValueError)
DoesNotFitError       a probe that has to run alone does not fit into memory                          (ValueError)
AblationError         a change of heads that did not do what it says                                (RuntimeError)
FinetuneError         a fine-tune broke off, or left a model that is not what it was                (RuntimeError)
RecipeError           a recipe cannot be read, or trains on what is asked afterwards                  (ValueError)
UnknownEstimatorError scores were asked for an estimator that was not computed             (ValueError, KeyError)
LengthError           a text is no context length, such as 4k                                         (ValueError)
StoreError            a results file cannot be read, or does not take what should be written          (ValueError)
Unsaved               results could not be written where they belong, and lie elsewhere               (StoreError)
CheckpointError       checkpoints cannot be found, or put into the order of training                  (ValueError)
SweepError            a sweep cannot go on with the shards that are there                             (ValueError)
DownstreamError       scores of benchmarks cannot be read                                             (ValueError)
KeyTokenError         a set of key tokens cannot be read, or is of other texts                        (ValueError)
HeadListError         a published list of heads cannot be read, or is of another model                (ValueError)

ProbeError            something about a probe, a probe set or its ingredients is wrong                (ValueError)
EmptyAnswer           there is no answer token, so there is nothing to score                          (ProbeError)
DuplicateId           two probes of one set carry the same id                                         (ProbeError)
HashMismatch          a saved probe set does not contain what it says it contains                     (ProbeError)
ProbeFileError        a file is missing, truncated, or not a saved probe set                          (ProbeError)
TokenizerMismatch     the tokenizer at hand is not the one that made the probe's ids                  (ProbeError)
DoubleBOS             the special tokens that open a sequence are missing, or there twice             (ProbeError)
JoinNotCanonical      the tokenizer would cut the text differently where two pieces meet              (ProbeError)
SpanNotFound          the needle is not where it should be, or cannot be located                      (ProbeError)
NeedleLeak            what only the needle should say is also said elsewhere                          (ProbeError)
AlignmentFailed       no answer token can be traced to the needle alone                               (ProbeError)
LengthTooShort        the length asked for cannot hold needle, question and answer                    (ProbeError)
HaystackTooShort      the haystack holds fewer tokens than the longest probe needs                    (ProbeError)
NoText                a .json file holds no text where one is looked for                              (ProbeError)
DepthOutOfRange       a depth is not a number from 0 to 1                                             (ProbeError)
PoolTooSmall          more different needles (or token ids) are asked for than there are              (ProbeError)
NoChatTemplate        a chat was asked for, and the tokenizer cannot render one                       (ProbeError)
UnknownSet            there is no built-in probe set of that name                                     (ProbeError)
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .printable import printable


class HeadscopeError(Exception):
    """Something was asked of headscope that it cannot do; the message says in one line what to do instead.

    Names from files and paths that it repeats are shown as a terminal may show them: see `printable`.
    """

    def __str__(self) -> str:  # a KeyError's own would be the repr of the message
        return printable(Exception.__str__(self).replace("\n", " "))


class ArgumentError(HeadscopeError, ValueError):
    """An argument has a value that cannot be used."""


class ArgumentTypeError(HeadscopeError, TypeError):
    """An argument is of a kind that cannot be used."""


class UsageError(HeadscopeError, ValueError):
    """The command line asks for something that cannot be done."""


__all__ = [
    "AblationError",
    "AlignmentFailed",
    "ArgumentError",
    "ArgumentTypeError",
    "CaptureError",
    "CheckpointError",
    "DepthOutOfRange",
    "DoesNotFitError",
    "DoubleBOS",
    "DownstreamError",
    "DuplicateId",
    "EmptyAnswer",
    "FinetuneError",
    "HashMismatch",
    "HaystackTooShort",
    "HeadListError",
    "HeadscopeError",
    "JoinNotCanonical",
    "KernelError",
    "KeyTokenError",
    "LengthError",
    "LengthTooShort",
    "MissingPackageError",
    "ModelError",
    "NeedleLeak",
    "NoChatTemplate",
    "NoText",
    "PoolTooSmall",
    "ProbeError",
    "ProbeFileError",
    "RecipeError",
    "SpanNotFound",
    "StoreError",
    "SweepError",
    "TokenizerMismatch",
    "UnknownEstimatorError",
    "UnknownSet",
    "Unsaved",
    "UsageError",
]

if TYPE_CHECKING:
    from .interp.analysis import DownstreamError, HeadListError
    from .interp.causal import AblationError
    from .interp.engine import DoesNotFitError
    from .interp.finetune import FinetuneError, RecipeError
    from .interp.lengths import LengthError
    from .interp.model import CaptureError, ModelError
    from .interp.packages import MissingPackageError
    from .interp.perplexity import KeyTokenError
    from .interp.results import UnknownEstimatorError
    from .interp.store import StoreError, Unsaved
    from .interp.sweep import CheckpointError, SweepError
    from .kernels.errors import KernelError
    from .probes.errors import (
        AlignmentFailed,
        DepthOutOfRange,
        DoubleBOS,
        DuplicateId,
        EmptyAnswer,
        HashMismatch,
        HaystackTooShort,
        JoinNotCanonical,
        LengthTooShort,
        NeedleLeak,
        NoChatTemplate,
        NoText,
        PoolTooSmall,
        ProbeError,
        ProbeFileError,
        SpanNotFound,
        TokenizerMismatch,
        UnknownSet,
    )
else:
    _HOMES = {
        "AblationError": ".interp.causal",
        "CaptureError": ".interp.model",
        "CheckpointError": ".interp.sweep",
        "DoesNotFitError": ".interp.engine",
        "DownstreamError": ".interp.analysis",
        "FinetuneError": ".interp.finetune",
        "HeadListError": ".interp.analysis",
        "KernelError": ".kernels.errors",
        "KeyTokenError": ".interp.perplexity",
        "LengthError": ".interp.lengths",
        "MissingPackageError": ".interp.packages",
        "ModelError": ".interp.model",
        "RecipeError": ".interp.finetune",
        "StoreError": ".interp.store",
        "SweepError": ".interp.sweep",
        "UnknownEstimatorError": ".interp.results",
        "Unsaved": ".interp.store",
    }

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = import_module(_HOMES.get(name, ".probes.errors"), __package__)
        value = globals()[name] = getattr(home, name)
        return value

    def __dir__() -> list[str]:
        return sorted(__all__)
