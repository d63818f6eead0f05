"""Continuing a model at a longer context, at toy size: the text it reads, its loss, its checkpoints and their sweep."""

import hashlib
import json
import subprocess
import sys
from importlib.metadata import distributions
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

import headscope as hs

FOLDER = Path(__file__).parents[1] / "examples" / "evolution"
LENGTH = 512
TOY = {"length": LENGTH, "base": 50_000.0, "rows": 2, "steps": 6, "checkpoints": 4, "minutes": 1000.0, "peak": 0.01}
TOY |= {"warmup": 2, "most_bytes": 10_000, "validated": 3, "seed": 0}
pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def importable():  # type: ignore[no-untyped-def]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers for 128 tokens, with a tokenizer."""
    import corpus

    folder = tmp_path_factory.mktemp("start")
    tokenizer = corpus.train_tokenizer(corpus.split_documents(60)[0])
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True, **shape
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def extended(start: Path, tmp_path_factory: pytest.TempPathFactory, warm: list[str]) -> Path:
    """The folder that a short run leaves."""
    output = tmp_path_factory.mktemp("extended") / "run"
    command(start, output, warm)
    return output


def command(start: Path, output: Path, python: list[str]) -> None:
    """As a user runs it; what other tests leave in this process cannot show in its weights."""
    told = [word for name, value in TOY.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    subprocess.run([*python, str(FOLDER / "extend.py"), str(start), "-o", str(output), *told], check=True)


def run(start: Path, output: Path, **changed: float) -> None:
    import extend

    extend.extend(str(start), output, extend.Recipe(**TOY | changed))


def lines(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "training.jsonl").read_text().splitlines()]


def test_keeps_checkpoints_that_a_sweep_reads_and_learns(start: Path, extended: Path, tmp_path: Path) -> None:
    from headscope.interp.analysis.trajectory import read_trajectory
    from headscope.interp.model.loading import load_tokenizer

    probes = hs.probes.build("monitor", load_tokenizer(start), lengths=[192, 384], depths=2, needles=2)
    result = hs.sweep(str(extended / "checkpoint-*"), probes, tmp_path / "run.h5")
    assert (list(result.done), result.failed) == ([0, 1, 2, 6], {})
    trajectory = read_trajectory(result.path)
    assert trajectory.tokens.tolist() == [0, 1024, 2048, 6144]
    assert np.isfinite(trajectory.scores).all()

    configs = [json.loads((extended / f"checkpoint-{step}" / "config.json").read_text()) for step in (0, 1, 6)]
    assert [config["rope_parameters"]["rope_theta"] for config in configs] == [10_000, 50_000, 50_000]
    assert {config["max_position_embeddings"] for config in configs} == {LENGTH}
    assert {config["dtype"] for config in configs} == {"bfloat16"}

    told = lines(extended)
    assert [each["step"] for each in told if "loss" in each] == [1, 2, 3, 4, 5, 6]
    held_out = [each["held_out_far"] for each in told if "held_out_far" in each]
    assert held_out[0] == pytest.approx(np.log(1024), abs=0.2)
    assert held_out[-1] < held_out[0] - 0.5


def test_step_0_is_the_model_as_it_came(start: Path, extended: Path) -> None:
    ours = LlamaForCausalLM.from_pretrained(extended / "checkpoint-0", dtype=torch.float32).state_dict()
    theirs = LlamaForCausalLM.from_pretrained(start, dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(ours[name], theirs[name].float()) for name in theirs)


def test_the_same_recipe_gives_the_same_weights(start: Path, extended: Path, tmp_path: Path) -> None:
    command(start, tmp_path, [sys.executable])  # that hashes with another seed than the process before
    for name in ("checkpoint-6/model.safetensors", "text.json"):
        assert (tmp_path / name).read_bytes() == (extended / name).read_bytes(), name


def test_ends_in_time_with_what_it_has(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by a second whenever somebody looks at it."""
    import extend

    monkeypatch.setattr(extend, "time", SimpleNamespace(monotonic=count().__next__))
    run(start, tmp_path, steps=100_000, minutes=0.25)
    last = lines(tmp_path)[-1]
    assert "held_out_far" in last
    assert 0 < last["step"] < 15
    assert (tmp_path / f"checkpoint-{last['step']}").is_dir()


def test_spares_another_run(start: Path, extended: Path) -> None:
    import extend

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as told:
        patch.setattr(sys, "argv", ["extend.py", str(start), "-o", str(extended)])
        extend.main()
    assert told.value.code == 2


def test_says_what_it_read(extended: Path) -> None:
    told = json.loads((extended / "text.json").read_text())
    by_name = {package["name"]: package for package in told["packages"]}
    assert {"torch", "numpy", "transformers"} <= set(by_name)
    assert "headscope" not in by_name
    assert {package["held_out"] for package in told["packages"]} == {False, True}
    assert told["recipe"]["length"] == LENGTH
    assert told["weights"].startswith("safetensors:")


def test_the_loss_in_chunks_is_the_loss_at_once(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import long_loss

    monkeypatch.setattr(long_loss, "CHUNK", 50)  # 199 rows: the last chunk is shorter
    model = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32)
    ids = torch.randint(1024, (200,), generator=torch.Generator().manual_seed(1))
    whole = cross_entropy(model(ids[None, :-1]).logits[0], ids[1:], reduction="none")
    whole.mean().backward()
    wanted = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    chunked = long_loss.token_losses(model, ids)
    chunked.mean().backward()
    torch.testing.assert_close(chunked, whole)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], msg=name)


def test_operations_of_smollm2_at_32k() -> None:
    """By hand: 6 x 134,515,008 weights, and 3.5 x 2 x 32,768 x 576 x 30 for attention; norms count as weights."""
    import long_loss

    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**shape, **heads))
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    by_hand = 6 * 134_515_008 + 3.5 * 2 * 32768 * 576 * 30
    assert long_loss.flops_per_token(model, 32768) == pytest.approx(by_hand, rel=1e-12)


def test_schedule_is_dense_at_first() -> None:
    import extend

    assert extend.schedule(200, 14) == [0, 1, 2, 3, 5, 8, 12, 17, 26, 39, 59, 89, 133, 200]
    assert extend.schedule(3, 14) == [0, 1, 2, 3]
    assert [len(extend.schedule(steps, 14)) for steps in (14, 50, 1000)] == [14, 14, 14]


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A site folder of made-up distributions."""

    def put(name: str, metadata: str, files: dict[str, str]) -> None:
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{metadata}\n")
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        (info / "RECORD").write_text("".join(f"{path},,\n" for path in [*files, f"{info.name}/METADATA"]))

    put(
        "mit", "License-Expression: MIT\n\nAbout mit.", {"mit/b.py": "b = 1\n", "mit/a/z.py": "z = 1\n", "mit/c.so": ""}
    )
    put("choice", "License-Expression: MIT OR GPL-3.0-only", {"choice.py": "c = 1\n"})
    put("free", "License: Apache License, Version 2.0", {"free.py": "f = 1\n", "free_too.py": "too = 1\n"})
    put("doubly", "License: MPL-2.0\nClassifier: License :: OSI Approved :: MIT License", {"doubly.py": "d = 1\n"})
    put("silent", "Summary: says nothing", {"silent.py": "s = 1\n"})
    files = {
        "bsd/again.py": "f = 1\n",
        "bsd/data.py": "y = 2\n" * 9 + "x = '" + "QUJD" * 60 + "'\n",
        "bsd/made.py": "# Generated by a program. DO NOT EDIT\nm = 1\n",
        "bsd/numbers.py": "n = [1234567890, 1234567890]\n",
        "bsd/theirs.py": "# GNU General Public License, version 3\nt = 1\n",
        "bsd/_vendor/other.py": "o = 1\n",
        "bsd/LICENSE.md": "Redistribution and use\n",
        "bsd/own.py": "own = 1\n",
    }
    put("bsd", "Classifier: License :: OSI Approved :: BSD License", files)
    return tmp_path


def test_only_permissive_packages_and_text_that_somebody_wrote(shelf: Path) -> None:
    import source_code

    made = {package.name: package for package in source_code.packages(distributions(path=[str(shelf)]))}
    assert {name: package.licence for name, package in made.items()} == {
        "bsd": "BSD",
        "free": "Apache-2.0",
        "mit": "MIT",
    }
    assert "".join(made["mit"].files) == "# README\nAbout mit.\n\n# mit/a/z.py\nz = 1\n\n# mit/b.py\nb = 1\n\n"
    texts = [text for package in made.values() for text in package.files]
    assert sum("f = 1\n" in text for text in texts) == 1
    assert [text for text in made["bsd"].files if "f = 1" not in text] == ["# bsd/own.py\nown = 1\n\n"]
    assert {"generated", "mostly data", "speaks of a copyleft licence", "vendored"} <= set(made["bsd"].left_out)
    assert made["bsd"].left_out["mostly data"] == 2


def test_held_out_text_is_not_learned() -> None:
    """That the text is the same again is above, by its record in text.json."""
    import source_code

    found = source_code.packages(most_bytes=20_000)
    assert len(found) > 20
    for package in found:
        assert (
            set(source_code.re.findall(r"[\w.-]+", package.licence)) & source_code.PERMISSIVE
            or package.licence == "BSD"
        )
    halves: dict[bool, set[str]] = {False: set(), True: set()}
    for package in found:
        halves[package.held_out] |= {
            hashlib.sha256(text.partition("\n")[2].encode()).hexdigest() for text in package.files
        }
    assert halves[True]
    assert not halves[True] & halves[False]
