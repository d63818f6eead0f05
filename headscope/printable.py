"""Text that comes from outside (files, hubs, paths), as a terminal, a log or a page may show it.

Names in a file can hold what a terminal obeys (escape sequences), what turns a line round (bidirectional controls),
and what nobody sees (zero-width characters). Those are shown as escapes, \\x1b or \\u202e. Long texts are cut in
the middle, because errors begin with what is wrong and end with what to do.

Nothing is lost by it but looks: what is written to files stays as it is.
"""

from __future__ import annotations

from unicodedata import category

LONGEST = 2000  # characters of one message
NAME = 120  # characters of one name in a title, a table or a list

# Letters and marks that show nothing, besides the controls and format characters that Unicode calls so.
_BLANK = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: object, longest: int = LONGEST, *, keep: str = "") -> str:
    """`text` with every character that is obeyed or not seen as an escape, and at most about `longest` characters.

    keep: such characters that stay, "\\n" in a text of several lines.
    """
    shown = text if isinstance(text, str) else str(text)
    if len(shown) > longest:
        end = longest // 4
        shown = f"{shown[: longest - end]} [... {len(shown) - longest:,} characters ...] {shown[-end:]}"
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(c if c in keep or not _unseen(c) else ascii(c)[1:-1] for c in shown)


def _unseen(c: str) -> bool:
    return category(c) in _UNSEEN or c in _BLANK
