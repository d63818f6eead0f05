"""Every kernel and option on small inputs against the reference in float64: all that is wrong, in one call.

Cases are spread over processes, because compiling takes the time, and because an illegal access on a GPU is the end of
the process that did it: the case is named, and a new process goes on behind it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from headscope.kernels import RowEvidence, evidence_attention, row_evidence
from headscope.kernels.gpu.evidence_attention import evidence_attention as bare
from headscope.kernels.sdpa import attend

from .inputs import problem
from .record import FAILED, Record
from .stage import Stage, interpret

SECONDS = 100  # less than the part's own limit, so that what was found until then is told
WORKERS = 8
EPS = torch.finfo(torch.float32).eps
UNITS = {torch.bfloat16: 8, torch.float16: 8, torch.float32: 32}  # of EPS and the sum of magnitudes, as a dot may err
EXPONENT = 1e-5  # nats: exp2 and the sum of its results


@dataclass(frozen=True)
class Case:
    what: str
    dtype: torch.dtype = torch.bfloat16
    dim: int = 128
    value_dim: int | None = None
    group: int = 4
    rows: int = 70
    n: int = 1000
    topk: int = 0
    options: tuple[str, ...] = ()
    scale: float = field(default=1.0, kw_only=True)
    """of the inputs: large ones make ties and saturated scores"""


def cases(toy: bool) -> list[Case]:
    if toy:
        small: dict[str, Any] = {"dtype": torch.float32, "dim": 16, "group": 2, "rows": 5, "n": 70}
        found = [Case("plain", **small), Case("top 3", **small, topk=3)]
        return [*found, Case("every option", **small, options=("window", "softcap", "sinks", "limits", "starts"))]
    found = [
        Case(f"{str(dtype).removeprefix('torch.')} D{dim}", dtype, dim, topk=5)
        for dtype in (torch.bfloat16, torch.float16, torch.float32)
        for dim in (128, 64, 80, 96, 192, 256)
    ]
    every = ("window", "softcap", "sinks", "limits", "starts")
    found += [Case(name, options=(name,)) for name in (*every, "holes", "strided", "free")]
    found += [Case(f"every option, D{dim}", dim=dim, options=every, topk=3) for dim in (64, 128, 256)]
    found += [Case("every option, float32", torch.float32, 64, options=every, topk=3)]
    found += [Case(f"{group} query heads a key head", group=group) for group in (1, 2, 3, 5, 7, 8, 16)]
    found += [Case(f"{rows} rows", rows=rows, group=1 if rows < 40 else 4) for rows in (1, 16, 33, 200)]
    found += [Case(f"{n} keys", rows=min(n, 40), n=n) for n in (1, 63, 64, 65, 4097)]
    found += [Case(f"top {k}", topk=k, rows=9) for k in (1, 2, 8, 16)]
    found += [Case("values of 64", value_dim=64), Case("large scores", scale=8.0, options=("softcap",))]
    return found


def run(stage: Stage, record: Record) -> None:
    every = cases(stage.toy)
    workers = min(2 if stage.toy else WORKERS, os.cpu_count() or 1, len(every))
    until = monotonic() + SECONDS * (1000 if stage.toy else 1)  # a toy's time tells of the machine's other work
    shards = [list(range(len(every)))[i::workers] for i in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        answers = {}
        for found in pool.map(lambda shard: _watch(shard, until, stage.toy), shards):
            answers |= found
    wrong = {i: answer for i, answer in answers.items() if answer["problems"]}
    detail = {"seconds": {every[i].what: round(answer["seconds"], 1) for i, answer in sorted(answers.items())}}
    record.add(f"cases right, of {len(every)}", len(every) - len(wrong), at_least=len(every), detail=detail)
    for i, answer in sorted(wrong.items()):
        said = "\n".join([*answer["problems"], *answer.get("trace", [])])
        record.add(every[i].what, problem=f"{FAILED}: {answer['problems'][0]}"[:150], detail={"tail": said})


def _watch(shard: list[int], until: float, toy: bool) -> dict[int, dict[str, Any]]:
    """Answers of one process after another, until each case has one."""
    answers: dict[int, dict[str, Any]] = {}
    while left := [i for i in shard if i not in answers]:
        command = [sys.executable, "-m", "benchmarks.gpu.smoke_part", *(["--toy"] if toy else []), *map(str, left)]
        process = subprocess.Popen(
            command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            said, complaint = process.communicate(timeout=max(1.0, until - monotonic()))
            problem = f"the process ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            process.kill()
            said, complaint = process.communicate()
            problem = "not done in time"
        for line in said.splitlines():
            if line.startswith("{"):
                answer = json.loads(line)
                answers[answer["case"]] = answer
        unanswered = [i for i in left if i not in answers]
        ended = unanswered if monotonic() >= until else unanswered[: process.returncode != ENDS_AFTER_AN_ANSWER]
        for i in ended:
            answers[i] = {"problems": [problem], "seconds": 0.0, "trace": complaint.splitlines()[-20:]}
    return answers


ENDS_AFTER_AN_ANSWER = 3  # exit code: the device is unusable, and the case that did it has been told


def main(arguments: list[str]) -> None:
    toy = arguments[:1] == ["--toy"]
    if toy:
        interpret()
    every, device = cases(toy), torch.device("cpu" if toy else "cuda")
    for i in map(int, arguments[toy:]):
        began = monotonic()
        answer: dict[str, Any] = {"case": i, "problems": [], "trace": []}
        try:
            answer["problems"] = check(every[i], device)
        except Exception as error:
            said = str(error).strip().splitlines() or [""]
            answer["problems"] = [f"{type(error).__name__}: {said[0]}"]
            answer["trace"] = traceback.format_exc().splitlines()[-12:]
        answer["seconds"] = monotonic() - began
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        if not toy and answer["problems"]:
            try:
                torch.cuda.synchronize()
            except RuntimeError:
                os._exit(ENDS_AFTER_AN_ANSWER)


@torch.no_grad()
def check(case: Case, device: torch.device) -> list[str]:
    """What is off, and by how much; nothing where all is well."""
    batch, kv = 2, 2
    generator = torch.Generator().manual_seed(0)

    def normal(heads: int, rows: int, dim: int) -> Tensor:
        return (case.scale * torch.randn(batch, heads, rows, dim, generator=generator)).to(case.dtype)

    q = normal(kv * case.group, case.rows, case.dim)
    k, v = normal(kv, case.n, case.dim), normal(kv, case.n, case.value_dim or case.dim)
    there_k, there_v = k.to(device), v.to(device)
    if "strided" in case.options:  # views of a cache [B, N + 9, heads, 2, D]; what lies behind them is never read
        cache = torch.full((batch, case.n + 9, kv, 2, case.dim), torch.nan, dtype=case.dtype)
        cache[:, : case.n] = torch.stack((k, v), 3).transpose(1, 2)
        cache = cache.to(device)
        there_k, there_v = (cache[:, : case.n, :, i].transpose(1, 2) for i in (0, 1))
    at = torch.arange(case.n - case.rows, case.n)
    spans = torch.tensor([[0, 4], [case.n // 2, case.n // 2 + 22], [5, 5], [-3, 2 * case.n]]).expand(batch, 4, 2)
    every = {
        "window": {"window": case.n // 3},
        "softcap": {"softcap": 5.0},
        "sinks": {"sinks": torch.linspace(-3, 3, kv * case.group)},
        "limits": {"key_limits": at // 2 + torch.arange(case.rows) % 3 * 7},
        "starts": {"key_starts": at // 5},
        "holes": {"k_positions": torch.arange(case.n) * 2 - 4},
        "free": {"causal": False},
    }
    options: dict[str, Any] = {"q_positions": at * 2 if "holes" in case.options else at, "spans": spans}
    for name in case.options:
        options |= every.get(name, {})
    wide = [x.double() for x in (q, k, v)]
    wanted_out, wanted = evidence_attention(*wide, impl="reference", topk=case.topk, **options)
    there = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in options.items()}
    there_q = q.to(device)
    rows = row_evidence(there_q, there_k, topk=case.topk, impl="triton", **there)
    out, fused = evidence_attention(there_q, there_k, there_v, impl="triton", **there)
    raw = float(wide[0].norm(dim=-1).max() * wide[1].norm(dim=-1).max()) * case.dim**-0.5
    delta = UNITS[case.dtype] * EPS * raw + EXPONENT
    found: list[str] = []
    for kernel, got in (("row_evidence", rows), ("evidence_attention", fused)):
        found += _evidence(kernel, got, wanted, wide[0], wide[1], delta, options)
    if case.topk:
        assert rows.topk_logit is not None and wanted.topk_logit is not None and rows.topk_key is not None
        found += _off("row_evidence: logits of the highest", rows.topk_logit, wanted.topk_logit, delta)
        if not torch.equal(rows.topk_key[..., 0], rows.argmax_key):
            found.append("row_evidence: the first of the highest keys is not the highest key")
    unit = torch.finfo(case.dtype).eps  # weights and output are rounded to it
    magnitude, _ = evidence_attention(wide[0], wide[1], wide[2].abs(), impl="reference", **options)
    limit = (unit + 4 * delta) * magnitude + unit * wanted_out.abs() + 1e-6
    found += _off("evidence_attention: output", out, wanted_out, limit)
    if case.options in ((), ("strided",)):
        asked = problem(there_q, there_k, at.to(device))
        bare_out, bare_lse, *_ = bare(asked, there_v, evidence=False)
        found += _off("without evidence: output", bare_out, wanted_out, limit)
        found += _off("without evidence: log-sum-exp", bare_lse, wanted.lse, delta)
        if case.value_dim is None:
            torch_out, torch_lse = attend(there_q, there_k, there_v)
            # torch's kernels, and merged: parts of the output are rounded too
            found += _off("attend: output", torch_out, wanted_out, 4 * unit * magnitude + limit + 1e-4)
            found += _off("attend: log-sum-exp", torch_lse, wanted.lse, delta + 1e-3)
    return found


def _evidence(
    kernel: str, got: RowEvidence, wanted: RowEvidence, q: Tensor, k: Tensor, delta: float, options: dict[str, Any]
) -> list[str]:
    found = _off(f"{kernel}: log-sum-exp", got.lse, wanted.lse, delta)
    found += _off(f"{kernel}: highest logit", got.max_logit, wanted.max_logit, delta)
    found += _off(f"{kernel}: mass of spans", got.span_mass, wanted.span_mass, 4 * delta + EXPONENT)
    # The key is the best one, or as good as the best to within the error of two scores.
    key = got.argmax_key.cpu()
    if not torch.equal(key < 0, wanted.argmax_key < 0):
        return [*found, f"{kernel}: a key where none is seen, or none where one is"]
    places = options.get("k_positions")
    index = key if places is None else torch.searchsorted(places, key)
    group = q.shape[1] // k.shape[1]
    its = k.repeat_interleave(group, dim=1).gather(
        2, index.clamp(0, k.shape[2] - 1)[..., None].expand(*key.shape, k.shape[3])
    )
    logit = (q * its).sum(-1) * q.shape[-1] ** -0.5
    if cap := options.get("softcap"):
        logit = cap * torch.tanh(logit / cap)
    return found + _off(
        f"{kernel}: logit of the key", logit.where(key >= 0, wanted.max_logit), wanted.max_logit, 2 * delta
    )


def _off(what: str, got: Tensor, wanted: Tensor, limit: float | Tensor) -> list[str]:
    got, wanted = got.cpu().double(), wanted.double()
    if got.shape != wanted.shape:
        return [f"{what}: {tuple(got.shape)} instead of {tuple(wanted.shape)}"]
    error = (got - wanted).abs()
    bad = ~((error <= limit) | (got == wanted))
    if not bad.any():
        return []
    where = bad.nonzero()[0].tolist()
    worst = float(error[bad].nan_to_num(torch.inf).max())
    return [
        f"{what}: off by {worst:.3g} (limit {limit:.3g}) in {int(bad.sum())} of {bad.numel()} places, first {where}"
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
