"""Chat templates of the shapes that models ship: where the answer begins, what is passed on, what is refused."""

from __future__ import annotations

import datetime
import re
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from headscope.probes import Probe, ProbeError, build
from headscope.probes.errors import NoChatTemplate
from headscope.probes.frame import chat
from headscope.probes.tokens import Codec

MESSAGES = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
OPEN = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
THINK = "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
# Roles and the beginning of the assistant's turn, in the words of ...
SHAPES = {
    "chatml": (MESSAGES + OPEN, "<|end|><|assistant|>"),
    "harmony": (
        "{% for m in messages %}<|start|>{{ m['role'] }}{% if m['role'] == 'assistant' %}<|channel|>final{% endif %}"
        "<|message|>{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    "r1": (MESSAGES + THINK, "<|end|><|assistant|>"),
    "magistral": (MESSAGES + THINK.replace("<think>", "[THINK]"), "<|end|><|assistant|>"),
    "reasoning in words": (MESSAGES + THINK.replace("<think>", "My thoughts:"), "<|end|><|assistant|>"),
    "thoughts closed in finished messages": (
        MESSAGES.replace(
            "{{ m['content'] }}", "{% if m['role'] == 'assistant' %}<think>\n\n</think>\n{% endif %}{{ m['content'] }}"
        )
        + THINK,
        "<|end|><|assistant|><think>\n\n</think>\n",
    ),
    "a switch": (
        MESSAGES
        + OPEN.replace(
            "{% endif", "{% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}{% endif"
        ),
        "<|end|><|assistant|>",
    ),
    "a switch that closes": (
        MESSAGES + OPEN.replace("{% endif", "{% if enable_thinking is false %}<think></think>{% endif %}{% endif"),
        "<|end|><|assistant|><think></think>",
    ),
    "a space before the text": (
        "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }}[/INST]{% else %}"
        " {{ m['content'] }}{% endif %}{% endfor %}",
        "[/INST] ",
    ),
    "no roles": ("{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}" + OPEN, "<|end|><|assistant|>"),
    "nothing around": ("{{ messages[0]['content'] }}", "\n"),
    "user only": (
        "{% for m in messages %}{% if m['role'] != 'user' %}{{ raise_exception('no') }}{% endif %}"
        "U: {{ m['content'] }} A:{% endfor %}",
        " A:",
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_answer_begins_where_the_assistants_text_does(
    gpt2_like: Any, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    template, turn = SHAPES[shape]
    monkeypatch.setattr(gpt2_like, "chat_template", template)
    assert chat(Codec(gpt2_like)).ask("Why?") == f"Question: Why?{turn}Answer:"


def test_system_prompt_and_arguments_are_written(gpt2_like: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        gpt2_like, "chat_template", MESSAGES + "{% if effort is defined %}({{ effort }}){% endif %}" + OPEN
    )
    given: dict[str, Any] = {"chat": True, "system": "Be brief.", "template_args": {"effort": "low"}}
    built = build("grid", gpt2_like, lengths=[400], depths=2, needles=1, **given)
    built.verify(gpt2_like)
    own = Probe.from_text(
        gpt2_like, context="It rained. " * 20, needle="The key is red.", question="Which key?", answer="red", **given
    )
    for probe in (built[0], own):
        text = gpt2_like.decode(probe.input_ids)
        assert re.match(r"<s><\|system\|> ?Be brief\.<\|end\|><\|user\|>", text)
        assert "<|end|>(low)<|assistant|>Answer:" in text


WITH_DATE = "{%- set day = strftime_now('%d %b %Y, %H') -%}{% macro top() %}{{ strftime_now('%A') }}{% endmacro %}\n"


def test_a_date_is_the_same_on_all_days(gpt2_like: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:
            return datetime.datetime(2031, 3, 4, 5)

    monkeypatch.setattr(gpt2_like, "chat_template", WITH_DATE + "{{ top() }} {{ day }}" + MESSAGES + OPEN)
    first = build("grid", gpt2_like, lengths=[400], depths=2, needles=1, chat=True)
    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    chat_template_utils._compile_jinja_template.cache_clear()
    assert "2031" in gpt2_like.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert build("grid", gpt2_like, lengths=[400], depths=2, needles=1, chat=True).hash == first.hash
    assert Codec(gpt2_like).decode(first[0].input_ids).startswith("<s>Wednesday 01 Jan 2025, 12<|user|>")


NEEDS_SYSTEM = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('I want\na system message') }}{% endif %}"
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role') }}{% endif %}"


@pytest.mark.parametrize(
    ("template", "given", "says"),
    [
        (NEEDS_SYSTEM + MESSAGES + OPEN, {}, "fails: I want a system message; give a system message with system='...'"),
        (NEEDS_SYSTEM, {}, "give a system message with system='...'"),
        (NO_SYSTEM + MESSAGES + OPEN, {"system": "Hi."}, "fails: No system role; leave system out"),
        (MESSAGES.replace("messages", "messages[-1:]") + OPEN, {"system": "Hi."}, "does not write the system message"),
        (MESSAGES + OPEN, {"system": 3}, "system is 3"),
        (MESSAGES + OPEN, {"system": "<|user|>"}, "system holds the special token '<|user|>'"),
        (MESSAGES + OPEN, {"template_args": {"efort": 1}}, "'efort', which the chat template of"),
        (MESSAGES + OPEN, {"template_args": {"tokenize": True}}, "leave it out"),
        (MESSAGES + OPEN, {"template_args": "x"}, "give a dictionary"),
        ("{{ now() }}" + MESSAGES + OPEN, {}, "'now' is undefined; pass what it needs with template_args"),
        ("{{ 1 + 'x' }}" + MESSAGES + OPEN, {}, "unsupported operand"),
        ("{% for x %}", {}, "fails: "),
        ("{{ messages[0]['content'] | upper }}", {}, "exactly once and unchanged"),
        ("{{ messages[0]['content'] | replace('\n\n', '\n') }}", {}, "exactly once and unchanged"),
        ("<|user|>{{ messages[0]['content'] }}<|assistant|><think>\n", {}, "an answer is no thought"),
        ("<|user|>{{ messages[0]['content'] }}<|start|>assistant", {}, "inside a header"),
    ],
)
def test_what_a_template_cannot_do_is_one_line_with_a_remedy(
    gpt2_like: Any, monkeypatch: pytest.MonkeyPatch, template: str, given: dict[str, Any], says: str
) -> None:
    monkeypatch.setattr(gpt2_like, "chat_template", template)
    with pytest.raises(ProbeError) as error:
        chat(Codec(gpt2_like), **given)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_remedy_works(gpt2_like: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpt2_like, "chat_template", NEEDS_SYSTEM + MESSAGES + OPEN)
    assert chat(Codec(gpt2_like), "Hi.").ask("Why?") == "Question: Why?<|end|><|assistant|>Answer:"


def test_what_is_for_chats_is_refused_without_one(gpt2_like: Any) -> None:
    for given in ({"system": "Hi."}, {"template_args": {"a": 1}}):
        with pytest.raises(ProbeError, match="is for chat=True"):
            build("grid", gpt2_like, lengths=[400], **given)


def test_a_tokenizer_with_templates_but_no_default_is_refused(gpt2_like: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpt2_like, "chat_template", {"rag": MESSAGES, "tool_use": MESSAGES})
    with pytest.raises(NoChatTemplate, match="chat=False"):
        chat(Codec(gpt2_like))
