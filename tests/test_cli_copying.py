"""`headscope copy-profile`: one text, one file, one table; every mistake costs one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import headscope as hs
from command_line import fail, run
from tiny_models import build

TEXT = "The cat sat on the mat. The cat sat on the mat, and the dog sat on the cat.\n" * 4


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A tiny random Llama that reads bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bytewise = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytewise, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=100
    )
    folder = tmp_path_factory.mktemp("models") / "bytes-llama"
    build("llama", vocab_size=len(pieces)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_it_prints_saves_and_draws(model, text, tmp_path):
    file, figures = tmp_path / "profile.h5", tmp_path / "figures"
    result = run("copy-profile", model, "--text", text, "-o", file, "--figures", figures)
    assert result.exit_code == 0 and result.stderr == "", (result.stderr, result.exception)
    profile = hs.CopyProfile.load(file)
    assert profile.n_tokens == len(TEXT) and profile.model_id == "bytes-llama"
    assert profile.provenance["weights_sha256"].startswith("safetensors:")
    for head in profile.top(10):
        assert f"{head} " in result.stdout and f"{head.score:.3f}" in result.stdout
    flat = result.stdout.replace("\n", "")
    assert str(file) in flat and str(figures / "copy_heads.png") in flat
    assert len(list(figures.iterdir())) == 4
    loaded = hs.load_model(str(model))
    again = hs.copy_profile(loaded, loaded.tokenizer(TEXT)["input_ids"])
    np.testing.assert_array_equal(again.copies, profile.copies)


def test_a_profile_is_not_lost_with_its_folder(model, text, tmp_path, monkeypatch):
    from headscope.interp.copying import run as copying

    def copy_profile(*arguments, **options):
        found = as_ever(*arguments, **options)
        shutil.rmtree(folder)
        return found

    as_ever, folder, here = copying.copy_profile, tmp_path / "mount", tmp_path / "here"
    folder.mkdir(), here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(copying, "copy_profile", copy_profile)
    result = run("copy-profile", model, "--text", text, "-o", folder / "profile.h5")
    (kept,) = here.glob("profile.unsaved-*.h5")
    assert result.exit_code == 2 and f"the profile is in {kept}: mv {kept} {folder / 'profile.h5'}" in result.stderr
    assert hs.CopyProfile.load(kept).n_tokens == len(TEXT)


def test_mistakes_cost_one_line_and_touch_nothing(model, text, tmp_path):
    file = tmp_path / "profile.h5"
    assert "none.txt" in fail("copy-profile", model, "--text", tmp_path / "none.txt", "-o", file)
    assert "is a folder" in fail("copy-profile", model, "--text", tmp_path, "-o", file)
    assert "no file or folder" in fail("copy-profile", "./no-such-model", "--text", text, "-o", file)
    assert "--figures" in fail("copy-profile", model, "--text", text, "-o", file, "--figures", text)
    assert "Missing option '--text'" in fail("copy-profile", model, "-o", file)
    text.write_bytes(b"caf\xe9")
    assert "not UTF-8" in fail("copy-profile", model, "--text", text, "-o", file)
    text.write_text("")
    assert "give a longer text" in fail("copy-profile", model, "--text", text, "-o", file)
    text.write_text("a" * 4097)
    assert "4097" in fail("copy-profile", model, "--text", text, "-o", file)
    assert not file.exists()
    with h5py.File(file, "w") as other:
        other["x"] = [1]
    before = file.read_bytes()
    assert "is no copy profile" in fail("copy-profile", model, "--text", text, "-o", file)
    assert file.read_bytes() == before
