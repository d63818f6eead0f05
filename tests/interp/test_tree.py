"""The plan must put every probe's tokens back together exactly, and share what can be shared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from builders import random_grid, random_probe
from headscope.interp.engine.plan import Prefix, plan
from headscope.probes import Probe, ProbeSet


def rebuilt(prefix: Prefix, probe: Probe, suffix_index: int) -> np.ndarray:
    """The probe's sequence as its prefix and suffix say it is."""
    suffix = prefix.suffixes[suffix_index]
    ids = np.full(probe.length - 1, -1)
    for key, token in enumerate(prefix.ids[: suffix.context_len]):
        ids[key if key < suffix.graft_start else key + suffix.graft_len] = token
    ids[suffix.positions] = suffix.ids
    return ids


@pytest.mark.parametrize("sharing", ["exact", "grafted", "auto"])
def test_every_probe_is_the_sum_of_its_prefix_and_suffix(sharing: str) -> None:
    probes = random_grid()
    planned = plan(probes, sharing)
    seen = []
    for prefix in planned.prefixes:
        for i, suffix in enumerate(prefix.suffixes):
            probe = probes[suffix.probe]
            np.testing.assert_array_equal(rebuilt(prefix, probe, i), probe.input_ids[:-1])
            assert (np.diff(suffix.positions) > 0).all()
            np.testing.assert_array_equal(suffix.positions[-suffix.n_answer :], probe.answer_rows)
            seen.append(suffix.probe)
    assert sorted(seen) == list(range(len(probes)))


def test_kept_prefixes_are_equal() -> None:
    prefixes = plan(random_grid(), "exact").prefixes
    assert prefixes[0].keep == 0
    for before, after in zip(prefixes, prefixes[1:], strict=False):
        np.testing.assert_array_equal(before.ids[: after.keep], after.ids[: after.keep])
    assert sum(prefix.keep for prefix in prefixes) > 0


def test_a_grafted_grid_is_one_prefix_of_plain_haystack() -> None:
    probes = random_grid()
    planned = plan(probes, "grafted")
    assert len(planned.prefixes) == 1
    assert planned.grafted.all()
    assert len(planned.prefixes[0].suffixes) == len(probes)
    assert planned.n_tokens < plan(probes, "exact").n_tokens / 2


def test_all_lengths_of_one_needle_position_share_a_prefix_exactly() -> None:
    short = random_probe(60, 0.0, seed=3)
    held = short.question_start
    long = replace(
        short,
        id="long",
        input_ids=np.concatenate([short.input_ids[:held], [7] * 40, short.input_ids[held:]]),
        prompt_len=short.prompt_len + 40,
        question_start=held + 40,
    )
    planned = plan([long, short], "exact")
    assert len(planned.prefixes) == 1
    assert sorted(suffix.context_len for suffix in planned.prefixes[0].suffixes) == [held, held + 40]


def test_auto_grafts_only_what_shares_a_haystack() -> None:
    grid = random_grid()
    strange = random_probe(100, 0.5, seed=99, haystack=5)
    planned = plan(ProbeSet([*grid, strange]), "auto")
    assert planned.grafted[:-1].all()
    assert not planned.grafted[-1]


def test_probes_without_one_inserted_piece_cannot_be_grafted() -> None:
    probe = random_probe()
    plain = replace(probe, graft=None)
    assert not plan([replace(plain, id=str(i)) for i in range(9)], "auto").grafted.any()
    with pytest.raises(ValueError, match="no single inserted piece"):
        plan([probe, plain], "grafted")


def test_unknown_sharing_is_named() -> None:
    with pytest.raises(ValueError, match="'grfated'"):
        plan([random_probe()], "grfated")


def test_a_question_that_starts_late_still_leaves_the_row_that_predicts_the_first_token() -> None:
    probe = random_probe()
    late = replace(probe, question_start=probe.prompt_len)
    suffix = plan([late], "exact").prefixes[0].suffixes[0]
    assert suffix.positions[0] == probe.prompt_len - 1
