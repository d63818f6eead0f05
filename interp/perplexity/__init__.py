"""Loss on texts without needles: by position, by length of context, and on the tokens that need a long one (LongPPL).

run.py is the way in, texts.py what is measured, engine.py how it goes through a model, result.py what is found;
finding.py freezes key tokens with a reference model, key_tokens.py is their file.
"""

from typing import TYPE_CHECKING, Any

from .result import COUNTS, MEASURED, Perplexity

if TYPE_CHECKING:
    from .finding import find_key_tokens
    from .key_tokens import Keys, KeyTokenError, KeyTokens
    from .run import ahead_of_tokenizer, as_texts, check_context, perplexity
    from .texts import Corpora, ReadTexts, Texts, tokenise

__all__ = [
    "COUNTS",
    "MEASURED",
    "Corpora",
    "KeyTokenError",
    "KeyTokens",
    "Keys",
    "Perplexity",
    "ReadTexts",
    "Texts",
    "ahead_of_tokenizer",
    "as_texts",
    "check_context",
    "find_key_tokens",
    "perplexity",
    "tokenise",
]

# with torch and transformers, which take seconds that reading a file does not need
_HOMES = {"find_key_tokens": "finding", "perplexity": "run", "as_texts": "run"}
_HOMES |= {"ahead_of_tokenizer": "run", "check_context": "run"}
_HOMES |= {"ReadTexts": "texts", "Texts": "texts", "tokenise": "texts", "Corpora": "texts"}
_HOMES |= {"KeyTokenError": "key_tokens", "KeyTokens": "key_tokens", "Keys": "key_tokens"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
