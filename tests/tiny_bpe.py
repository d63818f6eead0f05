"""A byte-level tokenizer that can write any text, trained in a moment."""

from __future__ import annotations

from typing import Any


def tiny_bpe(text: str, size: int = 400) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    options: dict[str, Any] = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet(), "show_progress": False}
    bpe.train_from_iterator([text], trainers.BpeTrainer(vocab_size=size, special_tokens=["<s>"], **options))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>")
