"""What stands around the context: the first ids, and the text from the question to the answer."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import NoChatTemplate
from .tokens import Codec

SENTINEL = "\ue000"  # private use: marks where the user's message goes in a rendered chat


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


def plain(codec: Codec) -> Frame:
    """Completion without any markup."""
    return Frame(codec.head)


def chat(codec: Codec) -> Frame:
    """The tokenizer's own chat template with one user message, and the assistant's turn opened.

    Raises NoChatTemplate when there is none, or when it does not render the message once.
    """
    if not getattr(codec.tokenizer, "chat_template", None):
        raise NoChatTemplate(f"{codec.name} has no chat template; use chat=False for plain completion.")
    message = [{"role": "user", "content": SENTINEL}]
    rendered = codec.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    before, found, after = rendered.partition(SENTINEL)
    if not found or SENTINEL in after:
        raise NoChatTemplate(
            f"The chat template of {codec.name} does not render the user's message exactly once; use chat=False."
        )
    # The context brings its own leading space, and the template often writes BOS itself: exactly one stays.
    head = tuple(codec.encode(before.rstrip(" ")))
    if codec.head and head[: len(codec.head)] != codec.head:
        head = codec.head + head
    return Frame(head, turn=after, chat=True)
