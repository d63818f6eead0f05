"""Scores for people: on the terminal, as pictures (figures/) and as a page (page/). Nothing here computes anew."""

from .ablation_terminal import dose_table, effect_table
from .agreement_terminal import agreement_notes, agreement_tables
from .answers_terminal import answer_lines, task_table
from .comparison_terminal import comparison_tables
from .copy_terminal import copy_table
from .evolution import Evolution, evolve, run_facts, run_name
from .facts import facts, model_name
from .perplexity_terminal import perplexity_tables
from .sft_terminal import sft_notes, sft_table
from .terminal import summary

__all__ = [
    "Evolution",
    "agreement_notes",
    "agreement_tables",
    "answer_lines",
    "comparison_tables",
    "copy_table",
    "dose_table",
    "effect_table",
    "evolve",
    "facts",
    "model_name",
    "perplexity_tables",
    "run_facts",
    "run_name",
    "sft_notes",
    "sft_table",
    "summary",
    "task_table",
]
