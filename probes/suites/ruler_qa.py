"""RULER's question answering: numbered documents, one or two of which answer, and questions about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from ..errors import PoolTooSmall
from ..passage import Copied, Passage, Piece, marked
from ..questions import Question, Questions
from ..reading import FOUNDER, PLACE, Place, places
from ..seeds import rng
from ..suite import TOGETHER, Draw, Growing
from ..task import Task

MAX_NEW_TOKENS = 32
ASK = "Answer the question based on the given documents. Only give me the answer and do not output any other words."
FILLER = 3  # sentences of the haystack that make a document, where a file has too few
Marks = Sequence[tuple[int, int, int]]


def own_documents(draw: Draw) -> Growing:
    """qa_1_own: every document of the shared context could be asked about, and one is, each item's another one."""
    depth = (draw.shared.random() + draw.turn / TOGETHER) % 1
    fact = str(draw.own.choice(list(PLACE)))
    source, known = places(draw.shared), list[Place]()

    def make(n: int) -> Passage:
        told = _first(n, source, known)
        gold = int(depth * n)
        documents: list[tuple[str, Marks]] = [(place.document.text, ()) for place in told]
        documents[gold] = (told[gold].document.text, [(*told[gold].document.where(fact), 0)])
        return _asked(draw, told, gold, fact, documents)

    return Growing(make, least=TOGETHER)


def own_pairs(draw: Draw) -> Growing:
    """qa_2_own: a place's document names its founder (group 1), whose own document has the answer (group 0)."""
    depth = (draw.shared.random() + draw.turn / TOGETHER) % 1
    order = draw.shared.integers(2**63)
    fact = str(draw.own.choice(list(FOUNDER)))
    source, known = places(draw.shared), list[Place]()

    def make(n: int) -> Passage:
        told = _first(n, source, known)
        gold = int(depth * n)
        documents: list[tuple[str, Marks]] = []
        for i, place in enumerate(told):
            own, founder = place.document, place.founder
            documents.append((own.text, [(*own.where("founder"), 1)] if i == gold else ()))
            documents.append((founder.text, [(*founder.where(fact), 0)] if i == gold else ()))
        shuffled = np.random.default_rng(order).permutation(len(documents))
        return _asked(draw, told, gold, fact, [documents[i] for i in shuffled])

    return Growing(make, least=TOGETHER)


def missing(task: str) -> Callable[[Mapping[str, Any]], str]:
    """Why qa_1 or qa_2 cannot be built with the options that are given, or ""."""
    wanted = {
        "qa_1": "SQuAD's questions (v2.0 as published), or your own as JSON Lines of context, question, answers",
        "qa_2": "HotpotQA's questions (as published)",
    }[task]

    def why(options: Mapping[str, Any]) -> str:
        given: tuple[Questions, ...] = options["qa_file"] or ()
        if any(each.task == task for each in given):
            return ""
        has = "; " + " and ".join(f"{each.name} is for {each.task}" for each in given) if given else ""
        return f"{task} is {wanted}: give the file as qa_file (--qa-file){has}; {task}_own needs none."

    return why


def from_file(task: str) -> Callable[[Draw], Growing]:
    """qa_1 and qa_2 of a file: its documents beside those of the question, the same article's first.

    Questions come in an order of the seed, each once. Where the file has too few documents the haystack's text goes on,
    in documents of FILLER sentences.
    """

    def draw_one(draw: Draw) -> Growing:
        (held,) = (each for each in draw.options["qa_file"] if each.task == task)
        n_questions = len(held.questions)
        if draw.index >= n_questions:
            raise PoolTooSmall(f"{held.name} has {n_questions} questions for {task}; ask for at most so many items.")
        question = held.questions[rng(draw.text.seed, task, "questions").permutation(n_questions)[draw.index]]
        own = len(question.documents)
        chosen = {*question.documents, *question.related}
        rest = [i for i in draw.own.permutation(len(held.documents)).tolist() if i not in chosen]
        others = [*draw.own.permutation(question.related).astype(int).tolist(), *rest]
        gold, order = draw.own.random(own), draw.own.integers(2**63)

        def make(n: int) -> Passage:
            """The question's own documents, each at a depth of its own, and n others in any order."""
            texts = [held.documents[i] for i in others[:n]]
            if n > len(texts):
                sentences = draw.text.sentences(FILLER * (n - len(texts)))
                texts += [" ".join(sentences[i : i + FILLER]) for i in range(0, len(sentences), FILLER)]
            documents: list[tuple[str, Marks]] = [(texts[i], ()) for i in np.random.default_rng(order).permutation(n)]
            at = np.argsort(np.argsort(np.r_[gold, (np.arange(n) + 0.5) / max(1, n)]))
            for place, i in sorted((int(at[i]), i) for i in range(own)):
                marks = [(first, last, group) for group, (j, first, last) in enumerate(question.marks) if j == i]
                documents.insert(place, (held.documents[question.documents[i]], marks))
            return _passage(draw, question, documents)

        return Growing(make, least=0)

    return draw_one


def _first(n: int, source: Any, known: list[Place]) -> list[Place]:
    known.extend(islice(source, max(0, n - len(known))))
    if len(known) < n:
        raise PoolTooSmall(f"There are {len(known)} different documents, and {n} are needed; use shorter lengths.")
    return known[:n]


def _asked(draw: Draw, told: list[Place], gold: int, fact: str, documents: list[tuple[str, Marks]]) -> Passage:
    place, answer = told[gold], told[gold].facts[fact]
    question = Question(place.question(fact), (answer,), (), (), True)
    rivals = {each.facts[fact] for each in told} - {answer}
    return _passage(draw, question, documents, tuple(sorted(rivals)))


def _passage(
    draw: Draw, question: Question, documents: list[tuple[str, Marks]], rivals: tuple[str, ...] = ()
) -> Passage:
    """The published wording; of several right answers the first is the one that is teacher-forced."""
    pieces: list[Piece] = []
    for i, (text, marks) in enumerate(documents, 1):
        head = f"Document {i}:\n" if i == 1 else f"\n\nDocument {i}:\n"
        first, *more = marked(text, marks)
        before = pieces.pop().text if pieces and not pieces[-1].role else ""
        pieces += [Piece(before + head + first.text), *more]
    gold = question.answers[0]
    return Passage(
        key="qa",
        before=f"{ASK}\n\nThe following are given documents.\n\n",
        pieces=tuple(pieces),
        question=f"\n\n{ASK}\n\nQuestion: {question.text}",
        answer_prefix=" Answer:",
        answer=(Copied(f" {gold}", 0) if question.copied else f" {gold}",),
        task=Task("string_match_part", question.answers, MAX_NEW_TOKENS, rivals=rivals),
        reserve=MAX_NEW_TOKENS if draw.options["compat"] == "ruler" else 0,
    )
