"""RULER (arXiv 2404.06654; NVIDIA, Apache-2.0): its thirteen tasks by name, wording as published, texts of our own.

compat="ruler" keeps what is its choice: needles in essays at one of 40 depths, a variable-tracking example of some 500
tokens and a blank behind its statements, common words in the order they were drawn in, and room for the answer that a
model writes (`max_new_tokens`) within the length. Mended in both, because they are mistakes (docs/tasks.md lists them):
gold documents at one depth in all samples, the same slots in all samples, ids that repeat, keys that may repeat,
needles that never come last, example words that are in the list asked about, prompts that end in a blank.
"""

from __future__ import annotations

from functools import partial

from ..questions import read_questions
from ..suite import FromFile, Suite, SuiteTask
from . import ruler_niah as niah
from . import ruler_qa as qa
from .ruler_tracking import tracking
from .ruler_words import common_words, frequent_words

SUITE = Suite(
    name="ruler",
    description="RULER: retrieval, variable tracking, common words and question answering.",
    tasks={
        "niah_single_1": SuiteTask("One number in noise sentences.", niah.noise),
        "niah_single_2": SuiteTask("One number in the haystack's text.", niah.essay),
        "niah_single_3": SuiteTask("One UUID in the haystack's text.", partial(niah.essay, kind="uuids")),
        "niah_multikey_1": SuiteTask("One of four keys, in the haystack's text.", partial(niah.essay, keys=4)),
        "niah_multikey_2": SuiteTask("One key's number among nothing but such lines.", niah.needles),
        "niah_multikey_3": SuiteTask(
            "One UUID's UUID among nothing but such lines.", partial(niah.needles, kind="uuids")
        ),
        "niah_multivalue": SuiteTask("All four numbers of one key.", partial(niah.essay, values=4)),
        "niah_multiquery": SuiteTask("The numbers of four keys.", partial(niah.essay, keys=4, asked=4)),
        "vt": SuiteTask("All variables of a chain of assignments.", tracking),
        "cwe": SuiteTask("The ten most common words of a list.", common_words),
        "fwe": SuiteTask("The three most frequent words of a coded text.", frequent_words),
        "qa_1_own": SuiteTask("A question that one made-up document answers.", qa.own_documents),
        "qa_2_own": SuiteTask("A question that two made-up documents answer together.", qa.own_pairs),
    },
    from_file={
        "qa_1": FromFile(
            SuiteTask("A question of a SQuAD file, or of your own; needs --qa-file.", qa.from_file("qa_1")),
            "qa_1_own",
            qa.missing("qa_1"),
        ),
        "qa_2": FromFile(
            SuiteTask("A question of a HotpotQA file; yes and no: NLL only; needs --qa-file.", qa.from_file("qa_2")),
            "qa_2_own",
            qa.missing("qa_2"),
        ),
    },
    lengths=(4096, 8192),
    items=8,
    options={"compat": ("", "ruler"), "qa_file": read_questions},
)
