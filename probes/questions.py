"""Files of a user's own questions about documents: SQuAD's and HotpotQA's JSON as published, and plain JSON Lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from .documents import JSON_SUFFIXES, json_values, suffix, well_formed
from .errors import ProbeError
from .sentences import sentence_starts

SQUAD = "SQuAD's JSON (v1.1 or v2.0)"
HOTPOT = "HotpotQA's JSON (with distractors)"
LINES = 'JSON Lines of {"context": ..., "question": ..., "answers": [...]}'
ACCEPTED = f"accepted are {SQUAD}, {HOTPOT}, and {LINES}"
MARK = "\n"  # between a title and its text


@dataclass(frozen=True)
class Question:
    """A question about documents of a file.

    Attributes:
        text: the question.
        answers: right ones, each once; the first one that a document holds comes first.
        documents: indices of the documents it comes with; the first is the one that holds the answer.
        marks: (place in `documents`, first character, last + 1) of the sentences that answer it, the answer's first.
        copied: whether the first of `marks` holds the answer; "yes" and "no" are in none.
        related: other documents of the same article.
    """

    text: str
    answers: tuple[str, ...]
    documents: tuple[int, ...]
    marks: tuple[tuple[int, int, int], ...]
    copied: bool
    related: tuple[int, ...] = ()


@dataclass(frozen=True)
class Questions:
    """What a file holds. task: which task of RULER's is made of it; documents: each text once."""

    name: str
    task: str
    documents: tuple[str, ...]
    questions: tuple[Question, ...]


def read_questions(path: Any) -> tuple[Questions, ...]:
    """A file, or several, of questions. Raises ProbeError, in one line that says what to do."""
    given = [path] if isinstance(path, str | PathLike) else list(path) if isinstance(path, Sequence) else None
    if not given or not all(isinstance(each, str | PathLike) for each in given):
        raise ProbeError(f"qa_file is {path!r}; give the path of a file, or a list of them.")
    read = tuple(_read(Path(each)) for each in given)
    for task in ("qa_1", "qa_2"):
        if len(same := [each.name for each in read if each.task == task]) > 1:
            raise ProbeError(f"qa_file: {' and '.join(same)} are both for {task}; give one of them.")
    return read


def _read(file: Path) -> Questions:
    if not file.is_file():
        state = "is a folder" if file.is_dir() else "does not exist"
        raise ProbeError(f"qa_file {str(file)!r} {state}; give a file: {ACCEPTED}.")
    if suffix(file) not in JSON_SUFFIXES:
        raise ProbeError(f"qa_file {str(file)!r} is no {', '.join(JSON_SUFFIXES)} file; {ACCEPTED}.")
    pool = _Pool()
    found: list[Question] = []
    task = "qa_1"
    for where, value in json_values(file):
        if isinstance(value, dict) and isinstance(value.get("data"), list):
            found += _squad(where, value["data"], pool)
        elif isinstance(value, list) and value and isinstance(value[0], dict) and "supporting_facts" in value[0]:
            task = "qa_2"
            found += [_hotpot(f"{where}, question {i},", each, pool) for i, each in enumerate(value, 1)]
        elif isinstance(value, list):
            found += [_line(f"{where.rstrip(',')}, item {i},", each, pool) for i, each in enumerate(value, 1)]
        else:
            found.append(_line(where, value, pool))
    if not found:
        raise ProbeError(f"qa_file {str(file)!r} holds no question that has an answer; {ACCEPTED}.")
    once = {(each.text, each.documents[0], each.marks): each for each in found}
    return Questions(str(file), task, pool.texts, tuple(once.values()))


def _odd(what: str) -> ProbeError:
    return ProbeError(f"{what}; {ACCEPTED}.")


class _Pool:
    """Documents, each once."""

    def __init__(self) -> None:
        self._index: dict[str, int] = {}

    def add(self, text: str) -> int:
        return self._index.setdefault(text, len(self._index))

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(self._index)


def _squad(where: str, data: list[Any], pool: _Pool) -> Iterator[Question]:
    for a, article in enumerate(data, 1):
        at = f"{where}, article {a},"
        paragraphs = _list(article, "paragraphs", at)
        texts = [_text(paragraph, "context", at) for paragraph in paragraphs]
        numbers = [pool.add(text) for text in texts]
        for paragraph, text, number in zip(paragraphs, texts, numbers, strict=True):
            for asked in _list(paragraph, "qas", at):
                question = _text(asked, "question", at)
                if asked.get("is_impossible") is True:
                    continue
                spots = _list(asked, "answers", at)
                answers = [(_text(spot, "text", at), spot.get("answer_start")) for spot in spots]
                related = tuple(dict.fromkeys(each for each in numbers if each != number))
                yield _about(f"{at} question {question[:60]!r}:", question, answers, [text], (number,), related)


def _line(where: str, value: Any, pool: _Pool) -> Question:
    text, question = _text(value, "context", where), _text(value, "question", where)
    given = value.get("answers", value.get("answer"))
    if isinstance(given, dict):  # as the datasets library writes SQuAD's
        given = given.get("text")
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list) or not given or not all(isinstance(each, str) for each in given):
        raise _odd(f"{where} holds no list of texts as 'answers'")
    answers = [(well_formed(each), None) for each in given]
    return _about(f"{where} question {question[:60]!r}:", question, answers, [text], (pool.add(text),), ())


def _hotpot(where: str, value: Any, pool: _Pool) -> Question:
    question, answer = _text(value, "question", where), _text(value, "answer", where)
    documents: dict[str, list[str]] = {}
    for each in _list(value, "context", where):
        if not (
            isinstance(each, list)
            and len(each) == 2
            and isinstance(each[0], str)
            and isinstance(each[1], list)
            and all(isinstance(sentence, str) for sentence in each[1])
        ):
            raise _odd(f"{where} has a 'context' that is no list of [title, [sentence, ...]]")
        documents.setdefault(well_formed(each[0]), [well_formed(sentence) for sentence in each[1]])
    texts = {title: title + MARK + "".join(sentences) for title, sentences in documents.items()}
    facts: list[tuple[str, int, int]] = []
    for fact in _list(value, "supporting_facts", where):
        if not (isinstance(fact, list) and len(fact) == 2 and isinstance(fact[0], str) and type(fact[1]) is int):
            raise _odd(f"{where} has 'supporting_facts' that are no list of [title, sentence]")
        title, i = well_formed(fact[0]), fact[1]
        sentences = documents.get(title, [])
        if 0 <= i < len(sentences) and sentences[i].strip():  # some of the published ones name a sentence too many
            start = len(title) + len(MARK) + sum(map(len, sentences[:i]))
            facts.append((title, start, start + len(sentences[i])))
    facts = list(dict.fromkeys(facts))
    copied = False
    if answer.lower() not in ("yes", "no"):
        places = [*(title for title, _, _ in facts), *texts]
        holds = next((fact for fact in facts if answer in texts[fact[0]][fact[1] : fact[2]]), None)
        if holds is None and (holder := next((each for each in places if answer in texts[each]), None)) is not None:
            at = texts[holder].index(answer)
            holds = (holder, *sentence(texts[holder], at, at + len(answer)))
        if holds is not None:
            others = [fact for fact in facts if fact[0] != holds[0] or fact[2] <= holds[1] or fact[1] >= holds[2]]
            facts, copied = [holds, *others], True
    if not facts:
        raise ProbeError(
            f"{where} has no supporting fact and no answer that its context holds; mend it or leave it out."
        )
    titles = list(dict.fromkeys([*(title for title, _, _ in facts), *texts]))
    return Question(
        question,
        (answer,),
        tuple(pool.add(texts[title]) for title in titles),
        tuple((titles.index(title), start, end) for title, start, end in facts),
        copied,
    )


def _about(
    where: str,
    question: str,
    answers: list[tuple[str, Any]],
    texts: list[str],
    numbers: tuple[int, ...],
    related: tuple[int, ...],
) -> Question:
    """A question whose answer one document holds, and the sentences it is in."""
    text = texts[0]
    golds = list(dict.fromkeys(answer.strip() for answer, _ in answers if answer.strip()))
    yes_or_no = bool(golds) and all(gold.lower() in ("yes", "no") for gold in golds)
    for answer, start in answers:
        gold = answer.strip()
        if not gold or yes_or_no:
            continue
        shift = len(answer) - len(answer.lstrip())
        exact = type(start) is int and start >= 0 and text[start + shift : start + shift + len(gold)] == gold
        at = start + shift if exact else text.find(gold)
        if at >= 0:
            ordered = tuple(dict.fromkeys([gold, *golds]))
            return Question(question, ordered, numbers, ((0, *sentence(text, at, at + len(gold))),), True, related)
    if yes_or_no:
        return Question(question, tuple(golds), numbers, ((0, 0, len(text)),), False, related)
    raise ProbeError(
        f"{where} none of its answers ({', '.join(map(repr, golds))[:80]}) is in its context, word for word; mend "
        "it or leave it out."
    )


def sentence(text: str, first: int, last: int) -> tuple[int, int]:
    """Characters of the sentence, or sentences, that hold `text[first:last]`."""
    lines = [0, *(at + 1 for at, letter in enumerate(text) if letter == "\n")]
    edges = sorted({*lines, *sentence_starts(text), len(text)})
    return max(edge for edge in edges if edge <= first), min(edge for edge in edges if edge >= last)


def _list(value: Any, field: str, where: str) -> list[Any]:
    found = value.get(field) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise _odd(f"{where} holds no list {field!r}")
    return found


def _text(value: Any, field: str, where: str) -> str:
    found = value.get(field) if isinstance(value, dict) else None
    if not isinstance(found, str) or not found.strip():
        raise _odd(f"{where} holds no text {field!r}")
    return well_formed(found)
