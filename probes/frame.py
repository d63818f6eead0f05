"""What stands around the context: the first ids, and the text from the question to the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ProbeError
from .template import Template
from .tokens import Codec


@dataclass(frozen=True)
class Frame:
    """`head` ids, context, then `ask(...)`, then the answer.

    Plain completion:  BOS context / Question: ... / Answer: ...
    Chat:              BOS <user> context / Question: ... <assistant> Answer: ...
    """

    head: tuple[int, ...]
    turn: str = "\n"
    chat: bool = False

    def ask(self, question: str, answer_prefix: str = "") -> str:
        """From "Question:" to where the answer begins. Never ends in a space: the answer brings its own."""
        return f"Question: {question}{self.turn}Answer:{answer_prefix}"


def frame_for(codec: Codec, as_chat: bool, system: str | None, template_args: Mapping[str, Any] | None) -> Frame:
    """`chat` or `plain`. Raises ProbeError for what belongs to a chat and is given without one."""
    if as_chat:
        return chat(codec, system, template_args)
    for name, value in (("system", system), ("template_args", template_args)):
        if value is not None:
            raise ProbeError(f"{name} is for chat=True; add it, or leave {name} out.")
    return plain(codec)


def plain(codec: Codec) -> Frame:
    """Completion without any markup."""
    return Frame(codec.head)


def chat(codec: Codec, system: str | None = None, template_args: Mapping[str, Any] | None = None) -> Frame:
    """The tokenizer's own chat template with one user message (after `system`), and the assistant's turn opened.

    Raises NoChatTemplate when there is none, or when it cannot be used: see `Template`.
    """
    before, turn = Template(codec, system, template_args).around()
    # The context brings its own leading space, and the template often writes BOS itself: exactly one stays.
    head = tuple(codec.encode(before.rstrip(" ")))
    if codec.head and head[: len(codec.head)] != codec.head:
        head = codec.head + head
    return Frame(head, turn=turn, chat=True)
