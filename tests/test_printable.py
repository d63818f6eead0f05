"""What comes from outside is shown, never obeyed: on a terminal, in errors, logs and pages."""

from __future__ import annotations

import contextlib
import io
import logging
import unicodedata

import pytest
from rich.table import Table
from rich.text import Text

from command_line import run
from headscope.cli import terminal
from headscope.cli.errors import user_message
from headscope.errors import ArgumentError, HeadscopeError, StoreError, UnknownEstimatorError
from headscope.printable import printable

EVIL = (
    "\x1b]0;owned\x07",
    "\x9b31m",
    "\x00",
    "\x7f",
    "\u202eevil",
    "\u2066x\u2069",
    "\u200b",
    "\ufeff",
    "\u2028",
    "\r",
)
EVIL += ("\U000e0041", "\ud800", "\u115f", "\u3164", "\x85", "\u061c")


def obeyed(text: str) -> set[str]:
    return {ascii(c) for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {r"'\n'"}


@pytest.mark.parametrize("evil", EVIL, ids=ascii)
def test_every_character_that_is_obeyed_or_unseen_is_an_escape(evil: str) -> None:
    shown = printable(f"a{evil}b")
    assert not obeyed(shown) and shown.startswith("a\\") and shown.endswith("b")
    assert shown.encode()
    assert printable(shown) == shown, "what is shown already stays so"
    for kind in (ArgumentError, StoreError, UnknownEstimatorError):
        assert str(kind(f"a{evil}b")) == shown
    assert user_message(HeadscopeError(f"a{evil}b")) == shown
    assert not obeyed(user_message(OSError(2, "No such file", f"a{evil}b.h5")) or "")


@pytest.mark.parametrize(
    "text", ["plain", "naïve café", "検索 ヘッド\u3000一", "Кирилл", "עברית", "هدف", "न्‍"[:2], "🙂", "a\\x1b"]
)
def test_what_people_write_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_long_texts_are_cut_and_keep_both_ends() -> None:
    message = str(StoreError("run.h5: the name " + "x" * 10**6 + " is odd; restore the file"))
    assert len(message) < 2100 and message.startswith("run.h5: the name") and message.endswith("restore the file")
    assert "998," in message
    assert str(StoreError("first\nsecond")) == "first second"


@pytest.mark.parametrize("evil", EVIL, ids=ascii)
def test_tables_titles_and_lines_show_it(evil: str, capsys: pytest.CaptureFixture[str]) -> None:
    console = terminal.console()
    table = Table(title=evil)
    table.add_column(evil)
    table.add_row(f"[bold]{evil}")
    for item in (f"[red]{evil}", Text(evil, "bold"), table):
        console.print(item)
    terminal.echo(f"file {evil}\nline")
    terminal.echo(evil, err=True)
    out, err = capsys.readouterr()
    assert not obeyed(out + err) and "[bold]" in out and "\nline\n" in out


def test_colours_of_our_own_still_reach_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        terminal.console().print(Text.assemble(("a\x1b[2Jb", "bold red")))
    assert "\x1b[1;31ma\\x1b[2Jb\x1b[0m" in out.getvalue()


def test_warnings_show_it(capsys: pytest.CaptureFixture[str]) -> None:
    run("validate", "nowhere.h5")  # any command
    logging.getLogger("headscope.interp").warning("%s: given up", "a\x1b[2Jb\u202ec")
    assert capsys.readouterr().err == "a\\x1b[2Jb\\u202ec: given up\n"
