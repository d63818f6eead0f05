"""A tokenizer's chat template: what it writes before the user's text, and on to where the assistant's begins."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from .errors import NoChatTemplate, ProbeError
from .tokens import Codec

# Every template that writes today's date (through transformers' `strftime_now`) is told 1 January 2025, noon, so that a
# set is the same on all days. transformers lets no function of ours in: a macro before the template hides its own.
DATE = {
    **{"%A": "Wednesday", "%a": "Wed", "%B": "January", "%b": "Jan", "%h": "Jan", "%p": "PM", "%Z": "", "%z": ""},
    **{"%Y": "2025", "%G": "2025", "%y": "25", "%m": "01", "%d": "01", "%e": " 1", "%j": "001", "%V": "01"},
    **{"%H": "12", "%I": "12", "%M": "00", "%S": "00", "%f": "000000", "%u": "3", "%w": "3", "%U": "00", "%W": "00"},
    **{"%-d": "1", "%-e": "1", "%-m": "1", "%-y": "25", "%-j": "1", "%-H": "12", "%-I": "12", "%-M": "0", "%-S": "0"},
    **{"%F": "2025-01-01", "%D": "01/01/25", "%x": "01/01/25", "%T": "12:00:00", "%X": "12:00:00", "%R": "12:00"},
    **{"%c": "Wed Jan  1 12:00:00 2025"},
}
CLOCK = "".join(f"|replace({directive!r}, {words!r})" for directive, words in DATE.items())
CLOCK = "{% macro strftime_now(format) %}{{ format" + CLOCK + " }}{% endmacro %}\n"

# Private-use characters around texts whose place and spelling in a rendered chat are looked at.
USER = "\ue000Some text of\n\nTwo lines. Question: Why?\ue001"
ASSISTANT = "\ue002Because.\ue003"

# An opened block of thoughts at the very end: <think>, [THINK], <|START_THINKING|>, <reasoning>, ...
_THOUGHTS = re.compile(r"[<\[](?![^<>\[\]]*(?:/|end))[^<>\[\]]*(?:think|thought|reason)[^<>\[\]]*[>\]]\s*\Z", re.I)
_CLOSED = re.compile(r"[<\[]\|?(?:/|end)[^<>\[\]]*[>\]]\Z", re.I)


class Template:
    """The chat template of one tokenizer with a system prompt and arguments.

    Thinking is switched off (`enable_thinking=False`) where the template can and the arguments do not say otherwise.

    Raises:
        NoChatTemplate: there is none.
        ProbeError: a system prompt or an argument that cannot be passed on.
    """

    def __init__(self, codec: Codec, system: str | None, arguments: Mapping[str, Any] | None) -> None:
        if not getattr(codec.tokenizer, "chat_template", None):
            raise NoChatTemplate(f"{codec.name} has no chat template; use chat=False for plain completion.")
        if arguments is not None and not (
            isinstance(arguments, Mapping) and all(isinstance(n, str) for n in arguments)
        ):
            raise ProbeError(f"template_args is {arguments!r}; give a dictionary of names and values.")
        self.codec, self.system = codec, system
        try:
            self.source = str(codec.tokenizer.get_chat_template(tools=(arguments or {}).get("tools")))
        except Exception as error:  # several templates and none called "default"
            raise self._refused(error) from error
        self.arguments = self._checked(arguments or {})
        if system is not None and not isinstance(system, str):
            raise ProbeError(f"system is {system!r}; give the system prompt as a text.")
        for special in codec.special_texts:
            if special in (system or ""):
                raise ProbeError(f"system holds the special token {special!r}; remove it: the template adds markup.")

    def around(self) -> tuple[str, str]:
        """What stands before the user's text, and between it and the assistant's.

        The assistant's text begins where the template itself puts it in a finished message: behind the whole header (of
        which some generation prompts open but a part) and behind a closed or absent block of thoughts.

        Raises NoChatTemplate, which says what to pass, where the template fails, changes the texts or leaves them out.
        """
        try:
            prompt = self._render(self.system)
        except Exception as error:  # a template is a program: it may raise anything
            raise self._refused(error) from error
        before, found, after = prompt.partition(USER)
        if not found or USER in after:
            raise NoChatTemplate(
                f"The chat template of {self.codec.name} does not render the user's message exactly once and "
                "unchanged; use chat=False."
            )
        if self.system and self._render(f"{self.system} {ASSISTANT}") == prompt:
            raise NoChatTemplate(
                f"The chat template of {self.codec.name} does not write the system message; leave system out, or use "
                "chat=False."
            )
        return before, self._turn(after, self._finished())

    def _turn(self, after: str, finished: str | None) -> str:
        thoughts = _THOUGHTS.search(after)
        header = after[: thoughts.start()].rstrip() if thoughts else after
        if finished is not None and finished.startswith(after):
            after = finished
        elif finished and finished != self._closed():  # it has a header, which is no longer than this one
            beyond = after[len(finished) :].strip() if after.startswith(finished) else ""
            if (thoughts and finished.startswith(header)) or (beyond and not _CLOSED.search(beyond)):
                after = finished
        if after[-1:].isalnum() and after != finished:
            raise NoChatTemplate(
                f"The chat template of {self.codec.name} opens the assistant's turn with {after[-20:]!r}, inside a "
                "header, and writes no assistant message that shows how it goes on; use chat=False."
            )
        if _THOUGHTS.search(after):
            switch = "system='/no_think'" if "no_think" in self.source else "template_args={'name': value}"
            raise NoChatTemplate(
                f"The chat template of {self.codec.name} opens the assistant's turn with {after.strip()[-20:]!r}, and "
                f"an answer is no thought; switch thinking off as this template wants it, with {switch}, or use "
                "chat=False."
            )
        return after or "\n"

    def _finished(self) -> str | None:
        """What stands between a user's and an assistant's text when both are told; None where that cannot be seen."""
        try:
            told = self._render(self.system, {"role": "assistant", "content": ASSISTANT}, prompting=False)
        except Exception:  # it need not take assistant messages
            return None
        _, found, rest = told.partition(USER)
        between, told_once, rest = rest.partition(ASSISTANT)
        return between if found and told_once and USER not in rest and ASSISTANT not in rest else None

    def _closed(self) -> str:
        """What follows a user's text when nobody's turn is opened."""
        try:
            return self._render(self.system, prompting=False).partition(USER)[2]
        except Exception:  # it need not take a chat that ends with the user
            return ""

    def _render(self, system: str | None, reply: dict[str, str] | None = None, *, prompting: bool = True) -> str:
        messages = [{"role": "user", "content": USER}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        if reply is not None:
            messages.append(reply)
        source = CLOCK + self.source if "strftime_now" in self.source else self.source
        return str(
            self.codec.tokenizer.apply_chat_template(
                messages, chat_template=source, tokenize=False, add_generation_prompt=prompting, **self.arguments
            )
        )

    def _checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        own = {*inspect.signature(self.codec.tokenizer.apply_chat_template).parameters, "messages", "strftime_now"}
        for name in arguments:
            if name in own - {"tools", "documents"}:
                raise ProbeError(
                    f"template_args holds {name!r}, which is not for the template to be told; leave it out."
                )
            if not re.search(rf"\b{re.escape(name)}\b", self.source):
                raise ProbeError(
                    f"template_args holds {name!r}, which the chat template of {self.codec.name} never reads."
                )
        quiet = {"enable_thinking": False} if re.search(r"\benable_thinking\b", self.source) else {}
        return {**quiet, **arguments}

    def _refused(self, error: Exception) -> NoChatTemplate:
        says = " ".join(f"{error or type(error).__name__}".split())[:200]
        if self.system is None and (self._works("You answer questions.") or "system" in says.lower()):
            remedy = "give a system message with system='...', or use chat=False"
        elif self.system is not None and self._works(None):
            remedy = "leave system out, or use chat=False"
        else:
            remedy = "pass what it needs with template_args={'name': value}, or use chat=False"
        return NoChatTemplate(f"The chat template of {self.codec.name} fails: {says.rstrip('.')}; {remedy}.")

    def _works(self, system: str | None) -> bool:
        try:
            self._render(system)
        except Exception:  # see above
            return False
        return True
