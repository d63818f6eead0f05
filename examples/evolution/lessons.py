"""Sequences that teach copying: natural text in which something is said once and needed again later.

    <s> text  FACT  text  QUESTION + ANSWER  text  BLOCK  text  BLOCK  text ...

A fact is a sentence about a made-up thing; its answer repeats the sentence. A block is a run of random tokens that
comes twice. Where first and second stand is drawn evenly, so all distances up to the context length occur.
Sentences, keys and values are not those of headscope's probes; only the frame "Question: ... Answer: ..." is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from corpus import Ids
from headscope.probes import words
from headscope.probes.families import biography, needle
from headscope.probes.seeds import rng

# (statement, question); {k} is the key, {v} the value
FACTS = (
    ("The locker code of {k} is {v}.", "What is the locker code of {k}?"),
    ("{k} was sold for {v} crowns.", "For how many crowns was {k} sold?"),
    ("The parcel for {k} weighs {v} grams.", "How many grams does the parcel for {k} weigh?"),
    ("In the register, {k} has the entry {v}.", "Which entry does {k} have in the register?"),
    ("Call {k} by dialling {v}.", "What must be dialled to call {k}?"),
    ("The nickname of {k} is {v}.", "What is the nickname of {k}?"),
    ("Members of {k} wear the badge {v}.", "Which badge do members of {k} wear?"),
    ("{k} always answers with {v}.", "With what does {k} always answer?"),
    ("Nobody but {k} knows about {v}.", "About what does nobody but {k} know?"),
    ("The secret of {k} is hidden behind {v}.", "Behind what is the secret of {k} hidden?"),
    ("Ticket {v} belongs to {k}.", "Which ticket belongs to {k}?"),
    ("Whoever visits {k} must bring {v}.", "What must whoever visits {k} bring?"),
)
NUMBERS = 0.6  # share of the values that are numbers; the others are a few words
BLOCKS = 0.4  # share of the pairs that are random blocks
ASKED = 0.75  # share of a sequence that is facts, questions, answers and blocks


@dataclass(frozen=True)
class Pair:
    """`first` stands somewhere, `second` later; the last `n_copied` tokens of `second` can be copied from `first`."""

    first: Ids
    second: Ids
    n_copied: int


def words_of_the_probes() -> set[str]:
    """Every word of headscope's own needles: none of them is used in a fact."""
    lists = (words.ADJECTIVES, words.NOUNS, words.TOWNS, words.HOBBIES, words.SUBJECTS, biography.ATTRIBUTES)
    texts = [text for entry in lists for text in entry]
    texts += [text for sentence in needle.SENTENCES.values() for text in sentence]
    return {word.strip(".,?'").lower() for text in texts for word in text.replace("-", " ").split()}


class Lessons:
    """Batches by number: the same number gives the same batch, whatever was drawn before."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, text: Sequence[Ids], words: Sequence[str], seed: int
    ) -> None:
        self.tokenizer, self.text, self.words, self.seed = tokenizer, text, words, seed
        self.tokens = np.concatenate(text)

    def batch(self, number: int, rows: int, length: int) -> tuple[Ids, Ids]:
        """ids int32 [rows, length], and copied int32 [rows, length]: 1 where a token can be copied from before."""
        drawn = [self.sequence(rng(self.seed, "lesson", number, row), length) for row in range(rows)]
        return np.stack([ids for ids, _ in drawn]), np.stack([copied for _, copied in drawn])

    def sequence(self, draw: np.random.Generator, length: int) -> tuple[Ids, Ids]:
        """One sequence of exactly `length` tokens, and where in it copying helps."""
        pairs: list[Pair] = []
        room = length - 1
        while room > (1 - ASKED) * length:
            pair = self.block(draw, length) if draw.random() < BLOCKS else self.fact(draw)
            room -= len(pair.first) + len(pair.second)
            if room < 0:
                break
            pairs.append(pair)
        room = length - 1 - sum(len(pair.first) + len(pair.second) for pair in pairs)
        events: list[tuple[float, Ids, int]] = []
        for pair in pairs:
            early, late = sorted(draw.random(2) * room)
            events += [(early, pair.first, 0), (late, pair.second, pair.n_copied)]
        events.sort(key=lambda event: event[0])

        parts = [np.array([self.tokenizer.bos_token_id], np.int32)]
        copied = [0]
        used, sentence = 0, int(draw.integers(len(self.text)))
        for when, ids, n_copied in [*events, (float(room), np.empty(0, np.int32), 0)]:
            while used < when:
                piece = self.text[sentence % len(self.text)][: room - used]
                sentence, used = sentence + 1, used + len(piece)
                parts.append(piece)
                copied += [0] * len(piece)
            parts.append(ids)
            copied += [0] * (len(ids) - n_copied) + [1] * n_copied
        return np.concatenate(parts), np.asarray(copied, np.int32)

    def fact(self, draw: np.random.Generator) -> Pair:
        """A sentence with a key and a value; later a question, and the sentence again."""
        statement, question = FACTS[draw.integers(len(FACTS))]
        key = (
            " ".join(self._draw_words(draw, 2)).title()
            if draw.random() < 0.5
            else f"the {' '.join(self._draw_words(draw, 2))}"
        )
        if draw.random() < NUMBERS:
            value = str(draw.integers(1, 10)) + "".join(map(str, draw.integers(0, 10, draw.integers(2, 8))))
        else:
            value = " ".join(self._draw_words(draw, int(draw.integers(1, 5))))
        said = statement.format(k=key, v=value)
        said = said[0].upper() + said[1:]
        answer = self._ids(f" {said}")
        asked = self._ids(f"\nQuestion: {question.format(k=key)}\nAnswer:")
        return Pair(answer, np.concatenate([asked, answer]), len(answer))

    def block(self, draw: np.random.Generator, length: int) -> Pair:
        """Tokens picked one by one from all over the text, twice. All but the first can be copied the second time."""
        size = int(draw.integers(8, min(64, length // 8) + 1))
        ids = draw.choice(self.tokens, size)
        return Pair(ids, ids, size - 1)

    def _draw_words(self, draw: np.random.Generator, n: int) -> list[str]:
        return [self.words[i] for i in draw.integers(0, len(self.words), n)]

    def _ids(self, text: str) -> Ids:
        return np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)
