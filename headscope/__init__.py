"""headscope: which attention heads copy from far away, how well, and how that changes while a model is trained.

>>> import headscope as hs
>>> probes = hs.probes.build("grid", tokenizer, lengths=[1024, 2048, 4096], depths=11, needles=2, seed=0)
>>> scores = hs.score_heads(model, probes)
>>> scores.top(10)

Everything below is imported on first use, so that `import headscope` and `headscope --help` stay quick.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = [
    "Ablation",
    "Answers",
    "CopyProfile",
    "Estimator",
    "HeadMonitor",
    "HeadScore",
    "HeadScores",
    "KeyTokens",
    "Perplexity",
    "SftProbe",
    "__version__",
    "ablate",
    "agree",
    "analysis",
    "compare",
    "copy_profile",
    "errors",
    "estimator",
    "evaluate",
    "export",
    "find_key_tokens",
    "kernels",
    "load_model",
    "merge",
    "open",
    "perplexity",
    "plot",
    "probes",
    "read_scores",
    "score_heads",
    "sft_probe",
    "sweep",
]

_root = Path(__file__).resolve().parents[1]
if (_root / "interp").is_dir() and (_root / "setup.py").is_file():
    # In a checkout the rooms lie beside this folder; an installed wheel holds them inside it.
    __path__.append(str(_root))

if TYPE_CHECKING:
    from . import errors, kernels, plot, probes
    from .interp import analysis
    from .interp.ablation import Ablation
    from .interp.analysis import agree, compare
    from .interp.causal import ablate
    from .interp.copying import CopyProfile, copy_profile
    from .interp.estimators import Estimator, estimator
    from .interp.evaluating import evaluate
    from .interp.finetune import sft_probe
    from .interp.finetuned import SftProbe
    from .interp.model import load_model
    from .interp.monitor import HeadMonitor
    from .interp.perplexity import KeyTokens, Perplexity, find_key_tokens, perplexity
    from .interp.results import HeadScore, HeadScores
    from .interp.scoring import score_heads
    from .interp.store import export, merge, open, read_scores
    from .interp.sweep import sweep
    from .interp.tasks import Answers
else:
    _ROOMS = {
        "analysis": ".interp.analysis",
        "errors": ".errors",
        "interp": ".interp",
        "kernels": ".kernels",
        "plot": ".plot",
        "probes": ".probes",
    }
    _HOMES = {
        "Ablation": ".interp.ablation",
        "Answers": ".interp.tasks",
        "CopyProfile": ".interp.copying",
        "Estimator": ".interp.estimators",
        "HeadMonitor": ".interp.monitor",
        "HeadScore": ".interp.results",
        "HeadScores": ".interp.results",
        "KeyTokens": ".interp.perplexity",
        "Perplexity": ".interp.perplexity",
        "SftProbe": ".interp.finetuned",
        "ablate": ".interp.causal",
        "agree": ".interp.analysis",
        "compare": ".interp.analysis",
        "copy_profile": ".interp.copying.run",
        "estimator": ".interp.estimators",
        "evaluate": ".interp.evaluating",
        "export": ".interp.store",
        "find_key_tokens": ".interp.perplexity",
        "load_model": ".interp.model",
        "merge": ".interp.store",
        "open": ".interp.store",
        "perplexity": ".interp.perplexity",
        "read_scores": ".interp.store",
        "score_heads": ".interp.scoring",
        "sft_probe": ".interp.finetune",
        "sweep": ".interp.sweep",
    }

    def __getattr__(name: str) -> object:
        if name in _ROOMS:
            return import_module(_ROOMS[name], __name__)
        if name in _HOMES:
            return getattr(import_module(_HOMES[name], __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*__all__, *_ROOMS})
