"""User errors become one line on stderr and exit code 2; everything else keeps its traceback.

HEADSCOPE_DEBUG=1 shows the traceback of user errors too.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from typer.core import TyperGroup

from ..errors import HeadscopeError, UsageError
from ..printable import printable

__all__ = ["FrontDoor", "UsageError", "user_message"]

_log = logging.getLogger("headscope")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FrontDoor(TyperGroup):
    """A group of commands that ends every user error the same way, whoever called it."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        def run() -> Any:
            return super(FrontDoor, self).main(args, prog_name, complete_var, False, windows_expand_args, **extra)

        if not standalone_mode:
            return run()
        if not any(isinstance(handler, _Warnings) for handler in _log.handlers):
            _log.addHandler(_Warnings(logging.WARNING))
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal without unicode gets "?", not a traceback
        try:
            code = run()
        except Exception as error:
            message = user_message(error)
            if message is None or os.environ.get("HEADSCOPE_DEBUG") == "1":
                raise
            sys.stderr.write(f"error: {message}\n")
            _drop_what_stdout_holds()
            sys.exit(2)
        if code == 130:
            sys.stderr.write("interrupted\n")
        sys.exit(code if isinstance(code, int) else 0)


class _Warnings(logging.Handler):
    """What headscope warns of, on stderr, with what a terminal would obey as escapes."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{printable(record.getMessage())}\n")
        if record.exc_info:  # HEADSCOPE_DEBUG
            sys.stderr.write(f"{logging.Formatter().formatException(record.exc_info)}\n")


def _drop_what_stdout_holds() -> None:
    """Where stdout takes no more, Python would complain once more at its end, and end with another exit code."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        sys.stdout = None


def user_message(error: Exception) -> str | None:
    """One line for the user, in the words of the command line; None when the error is not the user's."""
    if hasattr(error, "format_message"):  # typer's own: unknown option, missing argument, bad value
        text = error.format_message()
    elif isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}; check the path and its permissions"
    elif isinstance(error, OSError) and error.errno in _NO_ROOM:
        text = f"cannot write: {error.strerror}; make room, or write to another place"
    elif isinstance(error, HeadscopeError):
        text = str(error)
    else:
        return None
    return printable(" ".join(_as_options(text).split()))


_NAMES = "allow_pickle|chat|device|dtype|generate|kind|replace_changed|revision"
_NAMES += "|samples|sharing|system|table|tokenizer|top|trust_remote_code"


def _as_options(text: str) -> str:
    """Remedies in the words of the command line: allow_pickle=True is --allow-pickle, kind='number' --kind number."""
    text = re.sub(rf"\buse ({_NAMES})=False\b", lambda match: f"leave out {_option(match[1])}", text)
    text = re.sub(r"\bheads=False\b", "--no-heads", text).replace("leave heads=True", "leave out --no-heads")
    text = re.sub(rf"\b({_NAMES})=True\b", lambda match: _option(match[1]), text)
    text = re.sub(
        r"\btemplate_args=\{'(\w+)': (\w+)\}", lambda match: f"--template-arg {match[1]}={match[2].lower()}", text
    )
    quoted = rf"\b({_NAMES})=([\"'])(.+?)\2"
    text = re.sub(quoted, lambda match: f"{_option(match[1])} {match[3]}", text)
    return re.sub(rf"\b({_NAMES})=(\d+)", lambda match: f"{_option(match[1])} {match[2]}", text)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
