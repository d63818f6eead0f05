"""Run headscope's commands within the tests' process, as a user without a terminal would."""

from __future__ import annotations

from click.testing import Result
from typer.testing import CliRunner

from headscope.cli import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="headscope")


def succeed(*arguments: object) -> str:
    """Standard output."""
    result = run(*arguments)
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert result.stderr == "", "quiet where stderr is no terminal"
    return result.stdout


def fail(*arguments: object) -> str:
    """The one line of a user error."""
    result = run(*arguments)
    assert result.exit_code == 2, (result.stdout, result.stderr, result.exception)
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: "), line
    return line
