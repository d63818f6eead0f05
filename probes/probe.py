"""A probe: one token sequence with a needle in it, a question about it, and the answer.

A `Probe` is frozen data. It says where everything lies - context, needle, question, answer, and from which position
each answer token can be copied - and refuses to exist when that does not fit together. It knows nothing of models.

    [BOS] context ... needle ... context   question   answer
    |                                      |          |
    0                         question_start          prompt_len          length
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .alignment import align, classify
from .errors import EmptyAnswer, ProbeError
from .hashing import short_hash
from .task import Task

ROLES = ("needle", "distractor")
TOKEN_CLASSES = ("echo", "novel", "format")
ALIGNMENTS = ("exact", "id", "none")
_TEXTS = (
    *("family", "variant", "alignment", "needle_id", "answer_text", "tokenizer_fp", "haystack_id", "needle_text"),
    *("value", "vocabulary_fp"),
)


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens `input_ids[start:end]` and what they are: the "needle", or a "distractor" that looks like one.

    group: for spans that belong together; 0 in every built-in set.
    """

    start: int
    end: int
    role: str
    group: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", _whole(self.start, "Span start"))
        object.__setattr__(self, "end", _whole(self.end, "Span end"))
        if self.role not in ROLES:
            raise ProbeError(f"Span role is {self.role!r}; use one of {', '.join(ROLES)}.")
        if not 0 <= self.start < self.end:
            raise ProbeError(f"Span [{self.start}, {self.end}) is empty or negative; a span is 0 <= start < end.")


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """One needle (or group of needles) in one sequence.

    Attributes:
        id: unique within a set.
        family, variant, seed: what made it: ("keyvalue", "number", 0).
        input_ids: int32 [length], read-only. Context, question and answer; the answer is `input_ids[prompt_len:]`.
        prompt_len: number of tokens before the answer.
        question_start: where what follows the context begins. The engine branches here.
        spans: token ranges in the prompt, at least one with role "needle".
        sources: int32 [n_answer, m], read-only. Positions each answer token can be copied from, padded with -1.
        token_class: per answer token "echo" (the question holds it too), "novel" (only the needle does) or "format".
        alignment: how `sources` were found: "exact" (the whole answer is a run of needle tokens), "id" (positions in
            the needle that hold the same token) or "none": nothing is copied (`copyable`), the needle is what the
            answer follows from.
        needle_id: cluster for standard errors. Same needle and question, same needle_id.
        depth, depth_nominal: where the needle lies in the context, 0 (start) to 1 (end): realised and asked for.
        answer_text: the answer as text.
        tokenizer_fp: fingerprint of the tokenizer that made the ids, "" when unknown.
        graft: `input_ids[graft[0]:graft[1]]` was inserted into a plain haystack; without it the context is a prefix of
            that haystack. None when there is no single inserted piece.
        haystack_id: hash of the haystack's token stream; probes that share it share their context up to the graft.
        needle_text, value: the needle as text, and the part of it that appears nowhere else. "" when unknown.
        vocabulary_fp: fingerprint of what the ids in use stand for (`Codec.vocabulary_fp`), "" when unknown; no part of
            the hash, because the ids and the tokenizer decide it.
        task: how an answer of the model's own is judged (`headscope evaluate`); None where only the teacher-forced one
            is.

    Raises:
        ProbeError: fields that do not fit together; the message names the probe.
        EmptyAnswer: `prompt_len` leaves no answer token.
    """

    id: str
    family: str
    variant: str
    seed: int
    input_ids: NDArray[np.int32]
    prompt_len: int
    question_start: int
    spans: tuple[Span, ...]
    sources: NDArray[np.int32]
    token_class: tuple[str, ...]
    alignment: str
    needle_id: str
    depth: float
    depth_nominal: float
    answer_text: str
    tokenizer_fp: str
    graft: tuple[int, int] | None = None
    haystack_id: str = ""
    needle_text: str = ""
    value: str = ""
    vocabulary_fp: str = ""
    task: Task | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id:
            raise ProbeError(f"Probe id is {self.id!r}; give a non-empty string.")
        for name in _TEXTS:
            if not isinstance(getattr(self, name), str):
                raise ProbeError(f"{self.id}: {name} is {getattr(self, name)!r}; give a string.")
        object.__setattr__(self, "input_ids", _frozen_int32(self.input_ids, 1, f"{self.id}: input_ids"))
        object.__setattr__(self, "sources", _frozen_int32(self.sources, 2, f"{self.id}: sources"))
        for name in ("prompt_len", "question_start", "seed"):
            object.__setattr__(self, name, _whole(getattr(self, name), f"{self.id}: {name}"))
        if self.graft is not None:
            object.__setattr__(self, "graft", _pairs([self.graft], f"{self.id}: graft")[0])
        for name in ("depth", "depth_nominal"):
            object.__setattr__(self, name, _number(getattr(self, name), f"{self.id}: {name}"))
        if self.task is not None and not isinstance(self.task, Task):
            raise ProbeError(f"{self.id}: task is {self.task!r}; give a Task or None.")
        for name, kind in (("spans", Span), ("token_class", str)):
            object.__setattr__(self, name, _items(getattr(self, name), kind, f"{self.id}: {name}"))
        _check_layout(self)
        _check_spans(self)
        _check_answer(self)

    def __reduce__(self) -> tuple[Any, ...]:
        # Unpickle through the constructor: checked again, and the arrays are read-only again.
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    @property
    def length(self) -> int:
        """Tokens in the whole sequence, answer included."""
        return len(self.input_ids)

    @property
    def n_answer(self) -> int:
        return self.length - self.prompt_len

    @property
    def answer_ids(self) -> NDArray[np.int32]:
        """int32 [n_answer]."""
        return self.input_ids[self.prompt_len :]

    @property
    def answer_rows(self) -> NDArray[np.int64]:
        """int64 [n_answer]: the query positions that predict the answer. The row that predicts token t is t - 1."""
        return np.arange(self.prompt_len - 1, self.length - 1)

    @property
    def needle_spans(self) -> list[tuple[int, int]]:
        return [(span.start, span.end) for span in self.spans if span.role == "needle"]

    @property
    def needle_mask(self) -> NDArray[np.bool_]:
        """bool [length]: True on the needle's tokens."""
        mask = np.zeros(self.length, dtype=bool)
        for start, end in self.needle_spans:
            mask[start:end] = True
        return mask

    @property
    def copyable(self) -> bool:
        """Whether some answer token can be copied from the needle. Where not, heads have no copy score, but NaN."""
        return self.alignment != "none"

    @property
    def distance(self) -> int:
        """Tokens between the end of the last needle and the question."""
        return max(0, self.question_start - max(end for _, end in self.needle_spans))

    @property
    def interference(self) -> int:
        """Tokens before the first needle."""
        return min(start for start, _ in self.needle_spans)

    @property
    def hash(self) -> str:
        """blake2b over every field but `vocabulary_fp`, 32 hex digits; the same in every process, on every machine."""
        digest = blake2b(b"headscope probe 1\n", digest_size=16)
        values = {name: value for name, value in self.scalars().items() if name != "vocabulary_fp"}
        digest.update(json.dumps(values, sort_keys=True, ensure_ascii=True).encode())
        for array in (self.input_ids, self.sources):
            digest.update(f"\n{array.shape}\n".encode())
            digest.update(array.astype("<i4").tobytes())
        return digest.hexdigest()

    def scalars(self) -> dict[str, Any]:
        """Every field that is not an array, as JSON-able values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        del values["input_ids"], values["sources"]
        values["spans"] = [[span.start, span.end, span.role, span.group] for span in self.spans]
        values["token_class"] = list(self.token_class)
        values["graft"] = None if self.graft is None else list(self.graft)
        if self.task is None:
            del values["task"]  # as before there were any: hashes and files stay the same
        else:
            values["task"] = self.task.scalars()
        return values

    @classmethod
    def from_ids(
        cls,
        input_ids: ArrayLike,
        *,
        prompt_len: int,
        needles: Iterable[tuple[int, int]],
        id: str = "probe",
        question_start: int | None = None,
        distractors: Iterable[tuple[int, int]] = (),
        family: str = "custom",
        needle_id: str | None = None,
        answer_text: str = "",
        tokenizer_fp: str = "",
    ) -> Probe:
        """A probe from token ids you already have; the answer is `input_ids[prompt_len:]`.

        Args:
            input_ids: [length] integers: prompt and answer, exactly as the model shall see them (BOS included).
            prompt_len: number of tokens before the answer.
            needles: half-open token ranges `(start, end)` in the prompt that hold what the answer copies.
            question_start: where the question begins; by default the last prompt token.
            distractors: token ranges of competing needles.
            needle_id: cluster for standard errors; by default a hash of the needle's and the answer's ids.
            tokenizer_fp: `headscope.probes.fingerprint(tokenizer)`, so that `verify` can tell a wrong tokenizer.
        """
        ids = _frozen_int32(input_ids, 1, f"{id}: input_ids")
        needle_spans = [Span(start, end, "needle") for start, end in _pairs(needles, f"{id}: needles")]
        others = [Span(start, end, "distractor") for start, end in _pairs(distractors, f"{id}: distractors")]
        if not needle_spans:
            raise ProbeError(f"{id}: needles is empty; give at least one (start, end) token range inside the prompt.")
        prompt_len = _whole(prompt_len, f"{id}: prompt_len")
        _check_prompt_len(id, prompt_len, len(ids))
        for span in needle_spans:
            _check_in_prompt(id, span, prompt_len)
        branch = prompt_len - 1 if question_start is None else _whole(question_start, f"{id}: question_start")
        _check_question(id, branch, prompt_len)
        answer, spans = ids[prompt_len:], [(span.start, span.end) for span in needle_spans]
        sources, alignment = align(ids, answer, spans)
        held = sum(end - start for start, end in spans)
        depth = min(1.0, needle_spans[0].start / max(1, branch - held))
        return cls(
            id=id,
            family=family,
            variant="ids",
            seed=0,
            input_ids=ids,
            prompt_len=prompt_len,
            question_start=branch,
            spans=(*needle_spans, *others),
            sources=sources,
            token_class=classify(answer, question=ids[branch:prompt_len], sources=sources),
            alignment=alignment,
            needle_id=needle_id or short_hash(*(ids[start:end].tobytes() for start, end in spans), answer.tobytes()),
            depth=depth,
            depth_nominal=depth,
            answer_text=answer_text,
            tokenizer_fp=tokenizer_fp,
        )

    @classmethod
    def from_text(
        cls,
        tokenizer: Any,
        *,
        context: str,
        needle: str,
        question: str,
        answer: str,
        depth: float = 0.5,
        id: str = "probe",
        chat: bool = False,
        system: str | None = None,
        template_args: Mapping[str, Any] | None = None,
    ) -> Probe:
        """A probe from your own text, in any language, framed as `context` / `Question: ...` / `Answer: ...`.

        A needle that `context` already holds (once) stays where it is and `depth` says nothing; otherwise the needle is
        inserted at the sentence start nearest to `depth` (0: before the context, 1: after it). Where none is within
        two hundredths of the context (or 8 tokens, if that is more), a clause or a word that starts nearer is taken;
        `Probe.depth` is where the needle really lies. `chat`, `system` and `template_args` are those of `build`.
        """
        from .from_text import from_text

        return from_text(
            tokenizer,
            context=context,
            needle=needle,
            question=question,
            answer=answer,
            depth=depth,
            id=id,
            chat=chat,
            system=system,
            template_args=template_args,
        )


def _whole(value: Any, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise ProbeError(f"{name} is {value!r}; give a whole number.") from error


def _pairs(values: Any, name: str) -> list[tuple[int, int]]:
    """Ranges (start, end) of whole numbers."""
    try:
        return [(_whole(start, name), _whole(end, name)) for start, end in values]
    except (TypeError, ValueError) as error:
        if isinstance(error, ProbeError):
            raise
        raise ProbeError(f"{name} is {values!r}; give (start, end) token ranges, such as [(3, 9)].") from error


def _number(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ProbeError(f"{name} is {value!r}; give a number from 0 to 1.") from error


def _items(values: Any, kind: type, name: str) -> tuple[Any, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ProbeError(f"{name} is {values!r}; give a list of {kind.__name__}.")
    found = tuple(values)
    if odd := [item for item in found if not isinstance(item, kind)]:
        raise ProbeError(f"{name} holds {odd[0]!r}; every item must be a {kind.__name__}.")
    return found


def _frozen_int32(values: ArrayLike, ndim: int, name: str) -> NDArray[np.int32]:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise ProbeError(f"{name} cannot be made an array ({error}); give a {ndim}-D array of integers.") from error
    if array.ndim != ndim:
        raise ProbeError(f"{name} has shape {array.shape}; give a {ndim}-D array of integers.")
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ProbeError(f"{name} has dtype {array.dtype}; give integers.")
    if array.size and (array.max() > np.iinfo(np.int32).max or array.min() < np.iinfo(np.int32).min):
        raise ProbeError(f"{name} holds values outside int32; token ids and positions fit in int32.")
    frozen = array.astype(np.int32, copy=True)
    frozen.setflags(write=False)
    return frozen


def _check_prompt_len(id: str, prompt_len: int, length: int) -> None:
    if prompt_len == length:
        raise EmptyAnswer(f"{id}: the answer is empty: prompt_len is {prompt_len} and so is the number of input_ids.")
    if not 1 <= prompt_len < length:
        raise ProbeError(f"{id}: prompt_len is {prompt_len}; with {length} input_ids it must be 1 to {length - 1}.")


def _check_question(id: str, question_start: int, prompt_len: int) -> None:
    if not 0 <= question_start <= prompt_len:
        raise ProbeError(f"{id}: question_start is {question_start}; it must be 0 to prompt_len = {prompt_len}.")


def _check_in_prompt(id: str, span: Span, prompt_len: int) -> None:
    if span.end > prompt_len:
        raise ProbeError(
            f"{id}: {span.role} [{span.start}, {span.end}) lies outside the prompt, which ends at {prompt_len}; "
            "spans are half-open token ranges before the answer."
        )


def _check_layout(probe: Probe) -> None:
    _check_prompt_len(probe.id, probe.prompt_len, probe.length)
    if probe.input_ids.min() < 0:
        raise ProbeError(f"{probe.id}: input_ids holds {probe.input_ids.min()}; token ids are not negative.")
    _check_question(probe.id, probe.question_start, probe.prompt_len)
    for name in ("depth", "depth_nominal"):
        if not 0.0 <= getattr(probe, name) <= 1.0:
            raise ProbeError(f"{probe.id}: {name} is {getattr(probe, name)}; it must be 0 to 1.")


def _check_spans(probe: Probe) -> None:
    if not probe.needle_spans:
        raise ProbeError(f"{probe.id}: no span has the role 'needle'; a probe has at least one needle.")
    for span in probe.spans:
        _check_in_prompt(probe.id, span, probe.prompt_len)
    ordered = sorted(probe.spans, key=lambda span: span.start)
    for left, right in zip(ordered, ordered[1:], strict=False):
        if right.start < left.end:
            raise ProbeError(
                f"{probe.id}: {left.role} [{left.start}, {left.end}) and {right.role} [{right.start}, {right.end}) "
                "overlap; spans must be disjoint."
            )
    if probe.graft is not None:
        start, end = probe.graft
        if not 0 <= start < end <= probe.question_start:
            raise ProbeError(f"{probe.id}: graft {probe.graft} must be a token range before question_start.")
        if any(not start <= first < last <= end for first, last in probe.needle_spans):
            raise ProbeError(f"{probe.id}: graft {probe.graft} does not hold the needle {probe.needle_spans}.")


def _check_answer(probe: Probe) -> None:
    if len(probe.sources) != probe.n_answer or len(probe.token_class) != probe.n_answer:
        raise ProbeError(
            f"{probe.id}: sources has {len(probe.sources)} rows and token_class {len(probe.token_class)} entries; "
            f"both need one per answer token ({probe.n_answer})."
        )
    if unknown := set(probe.token_class) - set(TOKEN_CLASSES):
        raise ProbeError(f"{probe.id}: token_class holds {sorted(unknown)}; use {', '.join(TOKEN_CLASSES)}.")
    if probe.alignment not in ALIGNMENTS:
        raise ProbeError(f"{probe.id}: alignment is {probe.alignment!r}; use one of {', '.join(ALIGNMENTS)}.")
    if probe.sources.size and not -1 <= probe.sources.min() <= probe.sources.max() < probe.prompt_len:
        raise ProbeError(f"{probe.id}: sources must be positions in the prompt (0 to {probe.prompt_len - 1}) or -1.")
    known = probe.sources >= 0
    if (known.any()) != (probe.alignment != "none"):
        raise ProbeError(f"{probe.id}: alignment is {probe.alignment!r} but {known.sum()} sources are given.")
    held = probe.input_ids[np.where(known, probe.sources, 0)]
    wrong = known & (held != probe.answer_ids[:, None])
    if wrong.any():
        row = int(np.argwhere(wrong)[0, 0])
        raise ProbeError(
            f"{probe.id}: answer token {row} has id {probe.answer_ids[row]}, but its source holds "
            f"{held[wrong][0]}; a source must hold the same token."
        )
