"""Packages that not every installation has: imported where they are needed, or named with what to install."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import HeadscopeError


class MissingPackageError(HeadscopeError, ImportError):
    """What was asked needs a package that is not installed."""


def need(package: str, purpose: str, *, install: str | None = None) -> Any:
    """Import a package that not every installation has, or say what it is needed for and what to install."""
    try:
        return import_module(package)
    except ImportError as error:
        remedy = f"pip install '{install or package}'"
        raise MissingPackageError(f"{purpose} needs the package {package} ({error}). Install it: {remedy}") from error
