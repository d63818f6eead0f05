"""What a person sees of a probe."""

from __future__ import annotations

from typing import Any

from headscope.probes import build, show
from headscope.probes.tokens import squash


def test_a_probe_is_shown_abbreviated_with_its_parts_marked(tokenizer: Any) -> None:
    probe = build("grid", tokenizer, lengths=[600], depths=[0.5], needles=1, kind="number")[0]
    text = show(probe, tokenizer)
    plain = squash(text.plain)
    for part in (
        probe.id,
        probe.needle_text,
        f"Answer: The special magic number for {probe.value}"[:30],
        "tokens ...]",
    ):
        assert squash(part) in plain
    assert len(text.plain) < 3000
    marked = squash("".join(text.plain[span.start : span.end] for span in text.spans if "on yellow" in str(span.style)))
    underlined = squash("".join(text.plain[s.start : s.end] for s in text.spans if "underline" in str(s.style)))
    assert marked == squash(probe.needle_text)
    assert underlined == probe.value


def test_a_short_probe_is_shown_whole(gpt2_like: Any) -> None:
    probe = build("grid", gpt2_like, lengths=[120], depths=[0.5], needles=1)[0]
    assert "[..." not in show(probe, gpt2_like, around=200).plain


def test_induction_can_be_shown_too(gpt2_like: Any) -> None:
    probe = build("smoke", gpt2_like)[-1]
    assert probe.family == "induction"
    assert probe.answer_text.split()[0] in show(probe, gpt2_like).plain
