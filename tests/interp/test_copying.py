"""Copy profiles equal plain loops over materialised eager attention, however the text is cut into chunks."""

from __future__ import annotations

from dataclasses import replace

import h5py
import netCDF4
import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure

import headscope as hs
import oracle
from builders import VOCAB
from headscope import CopyProfile, copy_profile
from headscope.interp.copying.bins import distance_starts, position_starts
from headscope.interp.copying.profile import COUNTS
from headscope.interp.engine import DoesNotFitError
from headscope.interp.model import HuggingFaceModel
from headscope.interp.report.figures.copying import copy_distances, copy_heads, save_copy_figures
from headscope.interp.store.results_file import validate
from headscope.interp.store.schema import StoreError
from headscope.probes import Probe
from tiny_models import FAMILIES, LENGTH_DEPENDENT, LINEAR, WINDOW, build

CHECKED = ("llama", "gemma3_text", "gpt_oss", "gpt2", "gemma2", "llama4_text", "llama_dynamic", "jamba")


def random_text(length: int = 150, vocabulary: int = 40, seed: int = 0) -> np.ndarray:
    """Few enough different tokens that most rows could copy, from near and from far."""
    return np.random.default_rng(seed).integers(3, 3 + vocabulary, length)


def visible_from(family: str, layer: int, row: int) -> int:
    """The first key that a row of a tiny model sees, from the family's description in tiny_models."""
    sliding = {"gemma3_text": layer < 5, "gpt_oss": layer % 2 == 0, "gemma2": layer % 2 == 0, "mistral": True}
    if family == "llama4_text":
        return row // WINDOW * WINDOW if layer < 3 else 0
    return max(0, row - WINDOW + 1) if sliding.get(family, False) else 0


def expected(family: str, model: torch.nn.Module, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Every count of a profile, in plain loops over all rows and all keys of eager attention maps."""
    n = len(ids)
    whole = Probe.from_ids(ids, prompt_len=1, needles=[(0, 1)])  # its answer rows are all rows but the last
    argmax = oracle.run(model, whole).argmax
    n_layers, n_heads, n_rows = argmax.shape
    bins, parts = (n - 2).bit_length(), min(32, n - 1)
    sizes = {"layer": n_layers, "head": n_heads, "distance": bins, "position": parts}
    counts = {name: np.zeros([sizes[dim] for dim in dims], int) for name, dims in COUNTS.items()}

    for layer in range(n_layers):
        if (argmax[layer] < 0).all():
            continue
        for t in range(n_rows):
            part = t * parts // n_rows
            earlier = range(visible_from(family, layer, t), t)
            for name, wanted in (("copy", ids[t + 1]), ("echo", ids[t])):
                reached = {(t - j).bit_length() - 1 for j in earlier if ids[j] == wanted}
                for b in reached:
                    counts[f"{name}_possible"][layer, b] += 1
                counts[f"{name}_possible_by_position"][layer, part] += bool(reached)
            for head in range(n_heads):
                j = int(argmax[layer, head, t])
                assert visible_from(family, layer, t) <= j <= t
                counts["rows"][layer, head] += 1
                counts["sink_rows"][layer, head] += j < 4
                if j == t:
                    counts["self_rows"][layer, head] += 1
                    continue
                for name, wanted in (("copies", ids[t + 1]), ("echoes", ids[t])):
                    if ids[j] == wanted:
                        counts[name][layer, head, (t - j).bit_length() - 1] += 1
                        counts[f"{name}_by_position"][layer, head, part] += 1
    return counts


def assert_same_counts(profile: CopyProfile, counts: dict[str, np.ndarray]) -> None:
    """Opportunities are equal. What the highest keys are counted in may differ by two keys that tie to rounding."""
    for name, values in counts.items():
        of_keys = name.startswith(("copies", "echoes", "self", "sink"))
        assert np.abs(getattr(profile, name) - values).sum() <= (4 if of_keys else 0), name


@pytest.mark.parametrize("family", CHECKED)
def test_counts_equal_loops_over_eager_attention(family: str) -> None:
    model, ids = build(family), random_text()
    profile = copy_profile(model, ids, chunk=37)
    counts = expected(family, model, ids)
    assert_same_counts(profile, counts)
    assert counts["copies"].sum() > 0 and counts["echoes"].sum() > 0 and counts["self_rows"].sum() > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_do_not_depend_on_the_chunks(family: str) -> None:
    model, ids = build(family), random_text(130)
    one, other = copy_profile(model, ids), copy_profile(model, ids, chunk=29)
    assert_same_counts(other, {name: getattr(one, name) for name in COUNTS})


@pytest.mark.parametrize("chunk", [1, 2, 12, 13, 14])
def test_a_chunk_may_end_anywhere(chunk: int) -> None:
    """Also right before the last token, whose row has no next one."""
    model, ids = build("llama", num_hidden_layers=2), random_text(14, vocabulary=4)
    assert_same_counts(copy_profile(model, ids, chunk=chunk), expected("llama", model, ids))


@pytest.mark.parametrize("family", [*LENGTH_DEPENDENT, *LINEAR])
def test_models_that_cannot_share_run_in_one_forward(family: str) -> None:
    model, ids = build(family), random_text(100)
    profile = copy_profile(model, ids, chunk=10)
    assert profile.provenance["alone_because"]
    attends = profile.rows[:, 0] > 0
    assert attends.sum() == (1 if family in LINEAR else profile.n_layers)
    assert np.isnan(profile.copy_rate[~attends]).all() and not np.isnan(profile.copy_rate[attends]).any()


def test_a_block_repeated_is_all_opportunity() -> None:
    """n different tokens twice: rows n-1 .. 2n-2 could copy, all from n - 1 back; rows n .. 2n-2 could echo, from n."""
    n = 24
    block = np.random.default_rng(0).permutation(np.arange(3, VOCAB))[:n]
    profile = copy_profile(build("llama"), np.tile(block, 2))
    assert profile.distance.tolist() == [1, 2, 4, 8, 16, 32]
    for layer in range(profile.n_layers):
        assert profile.copy_possible[layer].tolist() == [0, 0, 0, 0, n, 0]
        assert profile.echo_possible[layer].tolist() == [0, 0, 0, 0, n - 1, 0]
    assert profile.copies[..., [0, 1, 2, 3, 5]].sum() == 0
    assert profile.copy_possible_by_position.sum(axis=1).tolist() == [n] * 4
    np.testing.assert_array_equal(profile.copy_rate, (profile.copies[..., 4] / n).astype(np.float32))


def test_a_window_hides_the_block_repeated() -> None:
    """The next token last stood n - 1 back, the current one n back: through a window of n, only copies are possible."""
    block = np.random.default_rng(0).permutation(np.arange(3, VOCAB))[:WINDOW]
    profile = copy_profile(build("mistral"), np.tile(block, 3))
    assert (profile.copy_possible.sum(axis=1) == 2 * WINDOW).all()
    assert (profile.echo_possible == 0).all() and np.isnan(profile.echo_rate).all()


def test_one_token_repeated() -> None:
    """Every key holds the next token and the current one: all rows but those that attend to themselves do both."""
    profile = copy_profile(build("llama"), np.full(40, 7))
    np.testing.assert_array_equal(profile.copies, profile.echoes)
    np.testing.assert_array_equal(profile.copies.sum(axis=-1) + profile.self_rows, profile.rows)
    # row t sees every distance up to t
    assert profile.copy_possible[0].tolist() == [39 - start for start in (1, 2, 4, 8, 16, 32)]


@pytest.mark.parametrize("length", [2, 3, 4, 33, 34, 1000, 2**18, 2**18 + 2])
def test_bins_hold_every_row_and_distance_once(length: int) -> None:
    distances, positions = distance_starts(length), position_starts(length)
    assert distances[0] == 1 and distances[-1] <= max(1, length - 2) < 2 * distances[-1]
    assert len(positions) == min(32, length - 1) and positions[0] == 0
    rows = np.arange(length - 1)
    part = rows * len(positions) // (length - 1)
    np.testing.assert_array_equal(np.searchsorted(positions, rows, side="right") - 1, part)


def test_a_text_of_256k_has_a_denominator_at_every_distance() -> None:
    from headscope.interp.copying.possible import possible_rows

    n = 2**18
    ids = np.full(n, 5)
    ids[0] = 6
    found = possible_rows(ids, np.full(n - 1, 6), np.zeros(n - 1, int), distance_starts(n))
    assert found.sum(axis=0).tolist() == [2**b for b in range(17)] + [2**17 - 1]
    assert (found.sum(axis=1)[1:] == 1).all()


def test_chunks_that_run_out_of_memory_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from headscope.interp.copying import run

    model, ids = build("llama"), random_text(300)
    plain = copy_profile(model, ids, chunk=64)
    failed = []

    class Tight(run.CopyPass):
        def attend(self, layer, q, *rest):
            if layer == 2 and q.shape[2] > 64:
                failed.append(q.shape[2])
                raise torch.OutOfMemoryError("no room")
            return super().attend(layer, q, *rest)

    monkeypatch.setattr(run, "CopyPass", Tight)
    assert_same_counts(copy_profile(model, ids, chunk=256), {name: getattr(plain, name) for name in COUNTS})
    assert failed == [256, 128]


@pytest.mark.parametrize("family", ["llama", "llama_dynamic"])
def test_a_profiled_model_is_put_back_exactly(family: str) -> None:
    def state() -> tuple[object, ...]:
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
        return model.config.to_dict(), model.config._attn_implementation, [m.training for m in model.modules()], hooks

    model = build(family).train()
    model.model.layers[1].eval()
    before = state()
    copy_profile(model, random_text(60))
    assert state() == before


def test_progress_goes_up_to_the_end() -> None:
    seen: list[tuple[int, int, str]] = []
    copy_profile(build("llama"), random_text(100), chunk=30, progress=lambda *at: seen.append(at))
    done = [rows for rows, _, _ in seen]
    assert done == sorted(done) and seen[-1] == (100, 100, "text") and len(seen) == 4 * 4


def test_tokens_may_be_a_list_or_a_tensor() -> None:
    model, ids = build("llama"), random_text(50)
    hashes = {copy_profile(model, given).text_hash for given in (ids, ids.tolist(), torch.tensor(ids))}
    assert len(hashes) == 1 and hashes != {copy_profile(model, ids[1:]).text_hash}


@pytest.mark.parametrize(
    ("tokens", "error", "phrase"),
    [
        ([], ValueError, "at least 2 token ids"),
        ([5], ValueError, "at least 2 token ids"),
        (np.ones((2, 9), int), ValueError, r"shape \(2, 9\)"),
        ("a text", ValueError, "one sequence of token ids"),
        ([0.5, 1.5], TypeError, "float64"),
        ([3, -100, 4], ValueError, "got -100"),
        ([3, VOCAB], ValueError, "id 199 .* vocabulary of 199"),
        (np.full(4097, 3), ValueError, "4097 .* 4096"),
    ],
)
def test_bad_tokens_cost_one_line(tokens: object, error: type[Exception], phrase: str) -> None:
    with pytest.raises(error, match=phrase) as raised:
        copy_profile(build("llama"), tokens)
    assert "tokens" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("model.layers.3.mlp.up_proj.weight", 3, "logits are not finite"),  # the first forty tokens show it
        ("model.embed_tokens.weight", 50, "attention of layer 0.* NaN"),  # a token behind them does
    ],
)
def test_nan_weights_are_an_error(name: str, row: int, message: str) -> None:
    model, text = build("llama"), np.where(random_text(60) == 50, 3, random_text(60))
    text[55] = 50
    model.get_parameter(name).data[row, 5] = float("nan")
    with pytest.raises(ValueError, match=message) as raised:
        copy_profile(model, text, chunk=20)
    assert "\n" not in str(raised.value)
    assert model.config._attn_implementation == "sdpa"


def test_a_bad_chunk_is_an_error() -> None:
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        copy_profile(build("llama"), random_text(60), chunk=0)


@pytest.fixture(scope="module")
def profile() -> CopyProfile:
    return copy_profile(build("gemma3_text"), random_text(200))


def test_rates_are_shares_of_what_was_possible(profile: CopyProfile) -> None:
    could = profile.copy_possible_by_position.sum(axis=1)
    assert 0 < could[0] < could[5] < 199, "the window hides some"
    rate = profile.copies.sum(axis=-1) / could[:, None]
    np.testing.assert_array_equal(profile.copy_rate, rate.astype(np.float32))
    best = profile.top(3)
    assert [head.score for head in best] == sorted(rate.astype(np.float32).ravel(), reverse=True)[:3]
    assert str(best[0]) == "L{}H{}".format(*np.unravel_index(rate.argmax(), rate.shape))
    sinks = profile.top(1, by="sink_rate")[0]
    assert sinks.score == profile.sink_rate.max() == profile.sink_rate[sinks.layer, sinks.head]
    far = profile.copy_rate_by_distance[:5, :, profile.distance >= WINDOW]
    assert np.isnan(far).all(), "beyond the window nothing was possible"
    assert profile.copy_rate_by_position.shape == (6, 8, 32)
    with pytest.raises(ValueError, match="sink_rate"):
        profile.top(by="copies")
    with pytest.raises(ValueError, match="at least 1"):
        profile.top(0)


def test_xarray_divides_by_name(profile: CopyProfile) -> None:
    ds = profile.to_xarray()
    assert dict(ds.sizes) == {"layer": 6, "head": 8, "distance": 8, "position": 32}
    by_distance = (ds.copies / ds.copy_possible).values.astype(np.float32)
    np.testing.assert_array_equal(by_distance, profile.copy_rate_by_distance)
    assert ds.copies.sel(distance=64).shape == (6, 8) and ds.kv_head.values.tolist() == [0] * 4 + [1] * 4


def test_a_saved_profile_comes_back_and_any_tool_reads_it(profile: CopyProfile, tmp_path, recwarn) -> None:
    path = tmp_path / "profile.h5"
    profile.save(path)
    profile.save(path)
    again = CopyProfile.load(path)
    for name in COUNTS:
        np.testing.assert_array_equal(getattr(again, name), getattr(profile, name))
    for name in ("model_id", "n_tokens", "n_kv_heads", "text_hash", "provenance"):
        assert getattr(again, name) == getattr(profile, name)
    for engine in ("h5netcdf", "netcdf4"):
        with xr.open_dataset(path, engine=engine) as ds:
            xr.testing.assert_equal(ds.load(), profile.to_xarray())
            assert ds.attrs["n_tokens"] == 200 and ds.attrs["schema_name"] == "headscope-copy-profile"
    with netCDF4.Dataset(path) as file:
        assert file["copies"].dimensions == ("layer", "head", "distance")
    assert not [w for w in recwarn if "netCDF" in str(w.message)]


def test_other_files_are_neither_read_nor_replaced(profile: CopyProfile, tmp_path) -> None:
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["x"] = [1]
    before = other.read_bytes()
    with pytest.raises(StoreError, match="is no copy profile"):
        profile.save(other)
    with pytest.raises(StoreError, match="is no copy profile"):
        CopyProfile.load(other)
    assert other.read_bytes() == before
    with pytest.raises(StoreError, match="does not exist"):
        CopyProfile.load(tmp_path / "none.h5")
    with pytest.raises(StoreError, match="does not exist"):
        profile.save(tmp_path / "no-folder" / "p.h5")
    path = tmp_path / "p.h5"
    profile.save(path)
    (problem,) = validate(path)
    assert "is a copy profile, not head scores; read it with headscope.CopyProfile.load(" in problem
    with pytest.raises(StoreError, match="is a copy profile, not head scores"):
        hs.open(path)
    with h5py.File(path, "r+") as file:
        file["copies"][0] = 199
    with pytest.raises(StoreError, match="damaged.*copies must not exceed copy_possible"):
        CopyProfile.load(path)
    with h5py.File(path, "r+") as file:
        del file["echoes"]
    with pytest.raises(StoreError, match="damaged"):
        CopyProfile.load(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(StoreError):
        CopyProfile.load(path)


def test_counts_that_contradict_each_other_are_refused(profile: CopyProfile) -> None:
    with pytest.raises(ValueError, match=r"copies must have the shape \(6, 8, 8\)"):
        replace(profile, copies=profile.copies[..., 1:])
    with pytest.raises(TypeError, match="rows must hold whole numbers"):
        replace(profile, rows=profile.rows * 0.5)
    with pytest.raises(ValueError, match="echoes must not exceed echo_possible"):
        replace(profile, echo_possible=profile.echo_possible * 0)


def test_pictures_show_the_rates(profile: CopyProfile, tmp_path) -> None:
    ax = copy_heads(profile, Figure().add_subplot())
    np.testing.assert_array_equal(ax.images[0].get_array(), profile.copy_rate.T)
    assert str(profile.top(1)[0]) in {text.get_text().split("\n")[0] for text in ax.texts}
    ax = copy_distances(profile, Figure().add_subplot(), k=5)
    best = profile.top(5)
    shown = np.ma.filled(ax.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(shown, np.array([profile.copy_rate_by_distance[h.layer, h.head] for h in best]))
    assert [label.get_text().split()[0] for label in ax.get_yticklabels()] == [str(head) for head in best]
    assert np.isnan(shown).any() and any(artist.get_hatch() for artist in ax.collections), "beyond the window: hatched"
    first, second = (save_copy_figures(profile, tmp_path / name) for name in "ab")
    expected_names = {f"copy_{what}.{kind}" for what in ("heads", "distances") for kind in ("png", "svg")}
    assert {path.name for path in first} == expected_names
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    with pytest.raises(ValueError, match="gif"):
        save_copy_figures(profile, tmp_path, formats=["gif"])


def test_pictures_of_nothing_are_drawn() -> None:
    """No copy was possible, or a layer has no attention."""
    nothing = copy_profile(build("jamba"), np.arange(3, 43))
    assert nothing.top() == []
    for draw in (copy_heads, copy_distances):
        figure = Figure()
        draw(nothing, figure.add_subplot())
        figure.draw_without_rendering()


def test_the_public_names() -> None:
    assert hs.copy_profile is copy_profile and hs.CopyProfile is CopyProfile
    assert {"copy_profile", "CopyProfile"} <= set(hs.__all__)


def test_a_text_that_runs_in_one_forward_and_does_not_fit_says_what_does(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = HuggingFaceModel.forward

    def full(self, ids, *args):
        if ids.numel() > 90:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, ids, *args)

    monkeypatch.setattr(HuggingFaceModel, "forward", full)
    with pytest.raises(DoesNotFitError, match="tokens has 201 tokens and does not fit.*50 tokens do fit"):
        copy_profile(build("llama_dynamic"), np.arange(3, 3 + 201) % 190)
