"""Probes from a user's own text: where the needle is found, and when it is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizer

from headscope.probes import Probe, ProbeError, ProbeSet, build
from headscope.probes.errors import DepthOutOfRange, EmptyAnswer, JoinNotCanonical, NeedleLeak, SpanNotFound
from headscope.probes.tokens import Codec, squash

CONTEXT = "The river was high. Nobody could cross it. We waited for a week.\nThen the rain stopped. A boat came."
NEEDLE = "The keeper of the lighthouse stores three brass lanterns under the staircase."
QUESTION = "What does the keeper of the lighthouse store under the staircase?"
ASK = {"needle": NEEDLE, "question": QUESTION, "answer": NEEDLE}


def span_text(probe: Probe, tokenizer: Any) -> str:
    ((start, end),) = probe.needle_spans
    return Codec(tokenizer).decode(probe.input_ids[start:end])


@pytest.mark.parametrize("depth", [0.0, 0.3, 0.7, 1.0])
def test_the_needle_is_inserted_between_sentences(tokenizer: Any, depth: float) -> None:
    probe = Probe.from_text(tokenizer, context=CONTEXT, depth=depth, **ASK)
    ProbeSet((probe,)).verify(tokenizer)
    codec = Codec(tokenizer)
    text = squash(codec.decode(probe.input_ids[len(codec.head) :]))
    assert text.replace(squash(NEEDLE), "", 1) == squash(f"{CONTEXT} Question: {QUESTION} Answer: {NEEDLE}")
    assert probe.depth == pytest.approx(depth, abs=0.2)
    assert squash(span_text(probe, tokenizer)).startswith(squash(NEEDLE)[:-1])
    assert "novel" in probe.token_class
    if depth in (0.0, 1.0):
        assert probe.depth == depth


def test_a_needle_that_is_there_already_stays(tokenizer: Any) -> None:
    context = f"{CONTEXT} {NEEDLE} {CONTEXT.replace('river', 'lake')}"
    probe = Probe.from_text(tokenizer, context=context, depth=0.0, **ASK)
    ProbeSet((probe,)).verify(tokenizer)
    assert 0.3 < probe.depth < 0.7
    assert probe.depth == probe.depth_nominal


def test_a_short_answer_comes_from_inside_the_needle(tokenizer: Any) -> None:
    probe = Probe.from_text(tokenizer, context=CONTEXT, needle=NEEDLE, question=QUESTION, answer="three brass lanterns")
    ProbeSet((probe,)).verify(tokenizer)
    assert (probe.alignment, probe.value) == ("exact", "three brass lanterns")
    assert squash(Codec(tokenizer).decode(probe.answer_ids)) == "threebrasslanterns"
    held = probe.input_ids[probe.sources[:, 0]]
    assert held.tolist() == probe.answer_ids.tolist()


def test_chat_wraps_the_same_text(llama3_like: Any) -> None:
    probe = Probe.from_text(llama3_like, context=CONTEXT, chat=True, **ASK)
    ProbeSet((probe,)).verify(llama3_like)
    text = Codec(llama3_like).decode(probe.input_ids)
    assert text.startswith("<s><|user|>\nThe river was high.")
    assert text.endswith(f"{QUESTION}<|end|>\n<|bot|>\nAnswer: {NEEDLE}")


def test_characters_of_several_tokens_are_covered_whole(gpt2_like: Any, llama3_like: Any) -> None:
    """Byte-level tokens of one character all map to the same characters; none may be left out."""
    needle, context = "鍵は青い箱の中にある。", "今日は雨。\n日本の夏は暑い。\nみんな寝た。\n"
    for tokenizer in (gpt2_like, llama3_like):
        probe = Probe.from_text(tokenizer, context=context, needle=needle, question="鍵は?", answer="青い箱")
        ProbeSet((probe,)).verify(tokenizer)
        assert squash(needle) in squash(span_text(probe, tokenizer))
        assert "�" not in span_text(probe, tokenizer)


class ZeroWidth:
    """A tokenizer whose offsets say where a token starts, but not where it ends (as Llama 3's once did)."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: str, **options: Any) -> Any:
        encoded = self._tokenizer(text, **options)
        if "offset_mapping" in encoded:
            encoded["offset_mapping"] = [(start, start) for start, _ in encoded["offset_mapping"]]
        return encoded


@pytest.mark.parametrize("context", [CONTEXT, "日本の夏は暑い。\nみんな寝た。\n"])
def test_zero_width_offsets_give_the_same_probe(gpt2_like: Any, context: str) -> None:
    right = Probe.from_text(gpt2_like, context=context, **ASK)
    assert Probe.from_text(ZeroWidth(gpt2_like), context=context, **ASK).hash == right.hash


class Shifting(ZeroWidth):
    """A tokenizer whose offsets are wrong."""

    def __call__(self, text: str, **options: Any) -> Any:
        encoded = self._tokenizer(text, **options)
        if "offset_mapping" in encoded:
            encoded["offset_mapping"] = [(start + 9, end + 9) for start, end in encoded["offset_mapping"]]
        return encoded


def test_wrong_offsets_never_give_a_wrong_span(gpt2_like: Any) -> None:
    with pytest.raises(ProbeError):
        Probe.from_text(Shifting(gpt2_like), context=CONTEXT, **ASK)


class WithoutOffsets(ZeroWidth):
    """The same tokenizer, as if it were written in Python."""

    is_fast = False

    def __call__(self, text: str, **options: Any) -> Any:
        if options.get("return_offsets_mapping"):
            raise NotImplementedError("no offsets")
        return self._tokenizer(text, **options)


def test_built_sets_need_no_offsets(llama3_like: Any) -> None:
    slow = WithoutOffsets(llama3_like)
    probes = build("smoke", slow)
    probes.verify(slow)
    assert probes.hash == build("smoke", llama3_like).hash


class Slow(PreTrainedTokenizer):
    """A tokenizer written in Python: words with their space, without character offsets."""

    def __init__(self, **options: Any) -> None:
        texts = f"{CONTEXT} {NEEDLE}\nQuestion: {QUESTION}\nAnswer: {NEEDLE}"
        self.words = dict.fromkeys(["<unk>", "a", "\n", *self._tokenize(texts), *self._tokenize(f" {texts}")])
        self.numbers = {word: i for i, word in enumerate(self.words)}
        super().__init__(unk_token="<unk>", **options)

    @property
    def vocab_size(self) -> int:
        return len(self.numbers)

    def get_vocab(self) -> dict[str, int]:
        return dict(self.numbers)

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return re.findall(r" ?\w+|\n|.", text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.numbers.get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return list(self.numbers)[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)


def test_a_slow_tokenizer_has_its_spans_found_without_offsets() -> None:
    tokenizer = Slow()
    assert not tokenizer.is_fast
    probe = Probe.from_text(tokenizer, context=CONTEXT, depth=0.5, **ASK)
    ProbeSet((probe,)).verify(tokenizer)
    assert span_text(probe, tokenizer).strip() == NEEDLE
    assert (probe.sources >= 0).all()
    with pytest.raises(SpanNotFound, match="use a fast tokenizer or Probe.from_ids"):
        Probe.from_text(tokenizer, context="Ж ж.", **ASK)


@pytest.mark.parametrize(
    ("error", "says", "arguments"),
    [
        (EmptyAnswer, "answer is empty", {"answer": " "}),
        (SpanNotFound, "needle is empty", {"needle": "\n"}),
        (DepthOutOfRange, "depth is 2.0", {"depth": 2.0}),
        (NeedleLeak, "2 times", {"context": f"{NEEDLE} {CONTEXT} {NEEDLE}"}),
        (
            NeedleLeak,
            "also outside the needle",
            {"context": f"{CONTEXT} Lanterns.", "answer": "lanterns", "question": "lanterns"},
        ),
        (ProbeError, "special token '<|end|>'", {"context": "A <|end|> B."}),
    ],
)
def test_text_that_cannot_work_is_refused(error: type[Exception], says: str, arguments: dict, gpt2_like: Any) -> None:
    with pytest.raises(error, match=re.escape(says)):
        Probe.from_text(gpt2_like, **{"context": CONTEXT, **ASK, **arguments})


def test_an_answer_fused_with_the_prompt_is_refused(across_spaces: Any) -> None:
    with pytest.raises((JoinNotCanonical, SpanNotFound)):
        Probe.from_text(across_spaces, context=CONTEXT, **ASK)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(st.text(st.sampled_from("abé日🙂.!\n x"), min_size=1, max_size=8), max_size=12),
    needle=st.text(st.sampled_from("abé日🙂. x"), min_size=1, max_size=20),
    depth=st.floats(0, 1),
)
def test_never_a_silently_wrong_span(
    gpt2_like: Any, llama3_like: Any, words: list[str], needle: str, depth: float
) -> None:
    for tokenizer in (gpt2_like, llama3_like):
        try:
            probe = Probe.from_text(
                tokenizer, context=" ".join(words), needle=needle, question="why", answer="because", depth=depth
            )
        except ProbeError:
            continue
        said, wanted = squash(span_text(probe, tokenizer)), squash(needle)
        assert wanted in said
        assert len(said) <= len(wanted) + 2


OTHER_LANGUAGES = {  # filler, needle, question, answer
    "Japanese": (
        "古い時計はいつも遅れている。朝の市場は人でいっぱいだ。",
        "村の合言葉、七つの白い石です。",
        "合言葉は?",
        "七つの白い石",
    ),
    "Chinese without punctuation": (
        "老邮局的钟总是慢十一分钟早上的市场里人很多",
        "暗号：七块白石头。",
        "暗号是什么?",
        "七块白石头",
    ),
    "Thai": ("ตลาดตอนเช้ามีคนเยอะมาก เด็กๆเล่นว่าว ", "รหัสลับคือหินขาวเจ็ดก้อน", "รหัสลับคืออะไร", "หินขาวเจ็ดก้อน"),
    "Khmer": ("ផ្សារពេលព្រឹកមានមនុស្សច្រើន។ ", "ពាក្យសម្ងាត់គឺថ្មសប្រាំពីរ។", "អ្វី?", "ថ្មសប្រាំពីរ"),
    "Urdu": ("پرانی گھڑی ہمیشہ پیچھے چلتی ہے۔ ", "خفیہ لفظ سات سفید پتھر ہے۔", "خفیہ لفظ کیا ہے؟", "سات سفید پتھر"),
    "Bengali": ("পুরনো ঘড়ি সবসময় পিছিয়ে থাকে। ", "গোপন শব্দ সাতটি সাদা পাথর।", "গোপন শব্দ কী?", "সাতটি সাদা পাথর"),
    "Amharic": ("የድሮው ሰዓት ሁልጊዜ ይዘገያል። ", "ሚስጥር ቃል ሰባት ነጭ ድንጋዮች ነው።", "ምንድን ነው?", "ሰባት ነጭ ድንጋዮች"),
    "Korean": ("오래된 시계는 항상 느리다. ", "마을의 암호는 하얀 돌 일곱 개이다.", "암호는?", "하얀 돌 일곱 개"),
    "log lines": ("01-02 ERROR disk full on node7, retry in 5s, ", "the magic node is x-93", "Which node?", "x-93"),
    "CSV": ("17,apple,3.50,red,2021-03-04,", "the magic fruit is quince", "Which fruit?", "quince"),
    "code": ("def f(x):\n    return x[0] != x[1]\n\n", "# the magic name is quince", "Which name?", "quince"),
    "no punctuation": ("and the clock of the post office is slow ", "the magic fruit is quince", "Which?", "quince"),
}


@pytest.mark.parametrize("language", OTHER_LANGUAGES)
def test_any_language_meets_its_depth_and_copies_its_answer(gpt2_like: Any, language: str) -> None:
    filler, needle, question, answer = OTHER_LANGUAGES[language]
    repeats = 1 + 1200 // len(Codec(gpt2_like).encode(filler))
    spaced = language not in ("Japanese", "Chinese without punctuation", "Thai", "Khmer")
    for depth in (0.0, 0.13, 0.5, 0.77, 1.0):
        probe = Probe.from_text(
            gpt2_like, context=filler * repeats, needle=needle, question=question, answer=answer, depth=depth
        )
        ProbeSet((probe,)).verify(gpt2_like)
        assert probe.depth == pytest.approx(depth, abs=0.02)
        assert probe.alignment == "exact"
        assert gpt2_like.decode(probe.input_ids).endswith(f"Answer:{' ' if spaced else ''}{answer}")
        assert len(re.findall(re.escape(needle), gpt2_like.decode(probe.input_ids))) == 1


def test_a_needle_is_never_put_inside_a_word(gpt2_like: Any) -> None:
    words = "extraordinary internationalisation don't 3,000 "
    for depth in (0.21, 0.34, 0.55, 0.9):
        probe = Probe.from_text(
            gpt2_like, context=words * 60, needle="The key is red.", question="Which?", answer="red", depth=depth
        )
        before, _, after = gpt2_like.decode(probe.input_ids).partition("The key is red.")
        assert before[-1] == " "
        assert after.split()[0] in words.split()


def test_a_text_without_any_border_says_what_depth_can_be_had(gpt2_like: Any) -> None:
    with pytest.raises(DepthOutOfRange, match=r"near depth 0.5; the nearest that can be had is [01]\.0000"):
        Probe.from_text(gpt2_like, context="QzxJ" * 600, needle="The key is red.", question="Which?", answer="red")


@pytest.mark.parametrize(
    ("needle", "answer", "context"),
    [
        ("The hunter loves the library.", "the library", "The library has a tree. "),
        ("The hunter loves the library.", "the library", "We left the\nlibrary at noon. "),
        ("老猎人最喜欢的地方是图书馆。", "图书馆", "图书馆的门口有一棵银杏树。"),
        ("老猎人最喜欢的地方是图书馆。", "图书馆", "门口有一棵银杏树在图\n书馆旁。"),
        ("猟師は図書館が好きです。", "図書館", "昨日図書館へ行った。"),
        ("사냥꾼은 도서관을 좋아한다.", "도서관", "그는 도서관에서 잤다. "),
        ("นายพรานชอบห้องสมุด", "ห้องสมุด", "เขาไปห้องสมุดทุกวัน "),
        ("الصياد يحب المكتبة.", "المكتبة", "ذهب إلى والمكتبة أمس. "),
        ("模型的名字是GPT。", "GPT", "我们用GPT写文章。"),
    ],
)
def test_an_answer_outside_the_needle_is_found_in_every_script(
    gpt2_like: Any, needle: str, answer: str, context: str
) -> None:
    with pytest.raises(NeedleLeak, match="also outside the needle"):
        Probe.from_text(gpt2_like, context=context * 20, needle=needle, question="?", answer=answer)


@pytest.mark.parametrize(
    ("needle", "answer", "context"),
    [
        ("The keeper has 3 lanterns.", "3", "There were 13 boats and 30 men in 2034. "),
        ("The keeper has a lantern.", "lantern", "Nobody sells lanterns. "),
        ("कुंजी घर में है।", "घर", "लोग घरों में थे। "),
        ("第3扇门。", "3", "今天来了13个人。"),
    ],
)
def test_an_answer_inside_a_longer_word_is_no_leak(gpt2_like: Any, needle: str, answer: str, context: str) -> None:
    probe = Probe.from_text(gpt2_like, context=context * 20, needle=needle, question="?", answer=answer)
    assert probe.answer_text == answer


def test_a_needle_with_a_line_break_in_it_is_found_and_counted(gpt2_like: Any) -> None:
    broken = NEEDLE.replace(" the lighthouse", "\nthe  lighthouse")
    probe = Probe.from_text(gpt2_like, context=f"{CONTEXT} {broken} {CONTEXT.replace('river', 'lake')}", **ASK)
    ProbeSet((probe,)).verify(gpt2_like)
    assert probe.needle_text == broken
    with pytest.raises(NeedleLeak, match="2 times"):
        Probe.from_text(gpt2_like, context=f"{broken} {CONTEXT} {NEEDLE}", **ASK)
    with pytest.raises(NeedleLeak, match="another spelling"):
        Probe.from_text(gpt2_like, context=f"{CONTEXT} {NEEDLE.upper()}", **{**ASK, "answer": "nothing"})


def test_a_needle_among_indented_lines_has_a_line_of_its_own(gpt2_like: Any) -> None:
    probe = Probe.from_text(gpt2_like, context="if a:\n    b = 1\n    c = 2\n" * 80, **ASK)
    assert re.search(rf"\n{re.escape(NEEDLE)}\n", gpt2_like.decode(probe.input_ids))
