"""The report as one page that needs no network: plotly's figures, cards, tables, and the slider over checkpoints."""

from .html import write_report

__all__ = ["write_report"]
