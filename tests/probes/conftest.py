"""Tokenizers that misbehave in the ways real ones do, small enough to train in a second."""

from __future__ import annotations

import string

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from headscope.probes import haystack, words
from headscope.probes.families import keyvalue, needle

# The pre-tokenizer of Llama 3 and Qwen: ".\n" and ".\n\n" become one token.
FUSING = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MARKUP = ["<s>", "</s>", "<|user|>", "<|end|>", "<|bot|>"]
LETTERS = string.ascii_letters + string.digits
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|user|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|bot|>\n{% endif %}"
)


def corpus() -> list[str]:
    documents = haystack.standard_library().documents(0)
    lines = [next(documents) for _ in range(12)]
    lines += [text for item in needle.SENTENCES.values() for text in item]
    lines += [item.needle + item.question for item in keyvalue.items(40, 0)]
    lines += [" ".join(words.ADJECTIVES + words.NOUNS + words.FIRST + words.LAST + words.TOWNS)] * 2
    return [*lines, "Question: Answer: <|user|> 日本語のテキスト。これは例です。 naïve café\n\n"]


def trained(model: models.Model, trainer: trainers.Trainer, *more: str, **parts: object) -> Tokenizer:
    tokenizer = Tokenizer(model)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.train_from_iterator([*corpus(), *more], trainer)
    return tokenizer


def byte_level(pattern: str | None, *, vocabulary: int = 3000, across_spaces: bool = False) -> Tokenizer:
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None and not across_spaces)
    split = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    return trained(
        models.BPE(),
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=MARKUP,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
        pre_tokenizer=pre_tokenizers.Sequence([*split, bytes_only]),
        decoder=decoders.ByteLevel(),
    )


def with_bos(tokenizer: Tokenizer) -> Tokenizer:
    bos = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[bos])
    return tokenizer


def wrap(tokenizer: Tokenizer, *, chat: bool = True) -> PreTrainedTokenizerFast:
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=MARKUP[2:],
    )
    wrapped.chat_template = CHAT if chat else None
    return wrapped


@pytest.fixture(scope="session")
def gpt2_like() -> PreTrainedTokenizerFast:
    """Byte-level BPE, BOS from a post-processor."""
    return wrap(with_bos(byte_level(None)))


@pytest.fixture(scope="session")
def llama3_like() -> PreTrainedTokenizerFast:
    """Byte-level BPE that fuses "." with newlines and cuts numbers by threes; BOS from a post-processor."""
    return wrap(with_bos(byte_level(FUSING)))


@pytest.fixture(scope="session")
def without_bos() -> PreTrainedTokenizerFast:
    """Byte-level BPE like Qwen's: no BOS, no chat template here."""
    return wrap(byte_level(FUSING), chat=False)


@pytest.fixture(scope="session")
def across_spaces() -> PreTrainedTokenizerFast:
    """Byte-level BPE that merges over spaces and newlines: tokens such as " of the" and ". The"."""
    return wrap(with_bos(byte_level(r"[^\n]{1,40}\n?", across_spaces=True)))


@pytest.fixture(scope="session")
def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Llama 2's way: a space put in front of every text, "▁" for spaces, byte fallback, newline as a byte."""
    tokenizer = trained(
        models.BPE(byte_fallback=True, unk_token="<unk>"),
        trainers.BpeTrainer(vocab_size=3000, special_tokens=["<unk>", *MARKUP, *BYTES], show_progress=False),
        normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        pre_tokenizer=pre_tokenizers.Split(Regex(r"\n|▁[^▁\n]*"), "isolated"),
        decoder=decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        ),
    )
    wrapped = wrap(with_bos(tokenizer))
    wrapped.unk_token = "<unk>"
    return wrapped


@pytest.fixture(scope="session")
def words_only() -> PreTrainedTokenizerFast:
    """Whole words and WordPiece endings; white space is gone for good."""
    tokenizer = trained(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(vocab_size=4000, special_tokens=["[UNK]", *MARKUP], show_progress=False),
        " ".join([*LETTERS, 2 * LETTERS]),  # so that it can spell words that it does not know
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        decoder=decoders.WordPiece(cleanup=False),
    )
    wrapped = wrap(with_bos(tokenizer))
    wrapped.unk_token = "[UNK]"
    return wrapped


TINY = ("gpt2_like", "llama3_like", "without_bos", "sentencepiece_like", "words_only")


@pytest.fixture(params=TINY)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    """Every small tokenizer that can place needles, in turn (`across_spaces` cannot)."""
    return request.getfixturevalue(request.param)
