"""What a person sees of a probe."""

from __future__ import annotations

from typing import Any

import pytest

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


@pytest.mark.slow
def test_smollm2_number_probe_is_exactly_as_documented(smollm2_tokenizer: Any) -> None:
    """The real tokenizer: exact lengths, digits one by one, no BOS, every family canonical."""
    for name in ("smoke", "heads", "grid_nested"):
        build(name, smollm2_tokenizer).verify(smollm2_tokenizer)
    for kind in ("sentence", "number", "uuid", "biography"):
        probes = build("grid", smollm2_tokenizer, depths=3, needles=3, kind=kind)  # type: ignore[arg-type]
        probes.verify(smollm2_tokenizer)
        assert {probe.length for probe in probes} == {1024, 2048, 4096}
        assert {probe.alignment for probe in probes} == {"exact"}
    number = build("grid", smollm2_tokenizer, kind="number")[0]
    assert number.n_answer == 8  # a space and seven digits
    assert number.token_class == ("format", *["novel"] * 7)
    chat = build("grid", smollm2_tokenizer, lengths=[1024], chat=True)
    chat.verify(smollm2_tokenizer)
    assert smollm2_tokenizer.decode(chat[0].input_ids).startswith("<|im_start|>system")
