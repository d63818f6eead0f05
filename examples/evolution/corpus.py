"""Text to learn from and text to be asked about, both from the standard library's documentation, and a tokenizer.

Every tenth document is held out: the model never sees it in training, and the probes' needles are hidden in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from headscope.probes.haystack import standard_library

HELD_OUT = 10  # one document in so many
VOCABULARY = 1024
BOS, EOS = "<s>", "</s>"

Ids = NDArray[np.int32]


def split_documents(most: int | None = None) -> tuple[list[str], list[str]]:
    """Documents to train on, and documents held out; no paragraph is in both. `most`: only so many of all."""
    documents = list(islice(standard_library().documents(0), most))
    return [d for i, d in enumerate(documents) if i % HELD_OUT], documents[::HELD_OUT]


def write_haystack(documents: Sequence[str], folder: Path) -> None:
    """The held-out documents as text files, for `--haystack FOLDER`; paragraphs of a document run on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, document in enumerate(documents):
        (folder / f"{number:03}.txt").write_text(document, encoding="utf-8")


def train_tokenizer(documents: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE. Digits are tokens of their own, so that a number must be copied digit by digit."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS)


def sentences(documents: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> list[Ids]:
    """All sentences in order, each as the ids of " sentence"."""
    texts = [f" {part}" for text in documents for part in re.split(r"(?<=[.!?])\s+", text.strip())]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [np.asarray(ids, np.int32) for ids in encoded]


def common_words(documents: Sequence[str], *, without: set[str]) -> list[str]:
    """Lower-case words of four to nine letters that occur at least five times, in alphabetical order."""
    counts: dict[str, int] = {}
    for word in re.findall(r"\b[a-z]{4,9}\b", " ".join(documents)):
        counts[word] = counts.get(word, 0) + 1
    return sorted(word for word, n in counts.items() if n >= 5 and word not in without)
