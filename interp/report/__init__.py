"""Scores for people: on the terminal, as pictures (figures/) and as a page (page/). Nothing here computes anew."""

from .ablation_terminal import dose_table, effect_table
from .agreement_terminal import agreement_notes, agreement_tables
from .answers_terminal import answer_lines, task_table
from .copy_terminal import copy_table
from .evolution import Evolution, evolve, run_facts, run_name
from .facts import facts, model_name
from .sft_terminal import sft_notes, sft_table
from .terminal import summary

__all__ = [
    "Evolution",
    "agreement_notes",
    "agreement_tables",
    "answer_lines",
    "copy_table",
    "dose_table",
    "effect_table",
    "evolve",
    "facts",
    "model_name",
    "run_facts",
    "run_name",
    "sft_notes",
    "sft_table",
    "summary",
    "task_table",
]
