"""The report as one page that needs no network: plotly's figures, cards, tables, and the slider over checkpoints."""

from .html import write_report
from .provenance import facts

__all__ = ["facts", "write_report"]
