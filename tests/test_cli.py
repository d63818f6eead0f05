"""The command line: what a newcomer types works, and every mistake costs one line."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from filelock import FileLock

import headscope as hs
from command_line import fail, run, succeed
from headscope.interp.store.results_file import read_scores
from made_up_scores import make_scores
from tiny_models import build

pytestmark = pytest.mark.long
GRID = ["--probes", "grid", "--lengths", "384,512", "--depths", "2", "--needles", "2"]


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level BPE with 2000 pieces, trained on the Python manual that comes with every interpreter."""
    from pydoc_data.topics import topics

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<s>", "</s>"]
    bpe.train_from_iterator(
        [topics[name] for name in sorted(topics)],
        trainers.BpeTrainer(vocab_size=2000, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def model(tokenizer, tmp_path_factory) -> Path:
    """A tiny random Llama with its tokenizer, on disk."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    build("llama", vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scored(model, tmp_path_factory) -> tuple[Path, Path, str]:
    """One run of the main command: the file, the folder of figures, what was printed."""
    folder = tmp_path_factory.mktemp("run")
    file, figures = folder / "run.h5", folder / "figures"
    return file, figures, succeed("score", model, *GRID, "-o", file, "--figures", figures)


def test_help_opens_with_examples_and_imports_nothing_heavy():
    code = (
        "import sys; from headscope.cli import main\n"
        "try: main()\n"
        "finally: print('HEAVY', *{'torch', 'transformers', 'matplotlib', 'xarray', 'h5py'} & set(sys.modules))"
    )
    example = "headscope score ./my-model"
    for arguments in (["--help"], ["score", "-h"], ["probes", "--help"], []):
        command = [sys.executable, "-c", code, *arguments]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert out.rstrip().endswith("HEAVY")
        if "probes" not in arguments:
            assert example in out and out.index(example) < out.index("Options")


@pytest.mark.parametrize("command", [[sys.executable, "-m", "headscope"], ["headscope"]])
def test_version_from_both_doors(command):
    if command == ["headscope"]:
        command = [str(Path(sys.executable).with_name("headscope"))]
        if not Path(command[0]).exists():
            pytest.skip("headscope is not installed beside this interpreter")
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"headscope {hs.__version__}\n"


def test_score_prints_saves_and_draws(scored, model):
    file, figures, out = scored
    scores = hs.open(file)
    assert dict(scores.sizes) == {"checkpoint": 1, "layer": 4, "head": 8}
    assert scores.attrs["model_id"] == "tiny-llama"
    retrieval = scores.retrieval.values[0]
    leader = np.unravel_index(np.argmax(retrieval), retrieval.shape)
    assert f"L{leader[0]}H{leader[1]}" in out
    assert f"{(retrieval > 0.1).sum()} of 32 heads are retrieval heads" in out
    assert "384" in out and "512" in out
    assert str(file) in out.replace("\n", "") and str(figures / "overview.png") in out.replace("\n", "")
    assert {path.name for path in figures.iterdir()} >= {
        "overview.png",
        "overview.svg",
        "heads.png",
        "length_depth.svg",
    }
    assert succeed("validate", file).startswith(f"{file} is in order: 1 checkpoint")


def test_the_file_says_where_the_weights_came_from(scored):
    provenance = read_scores(scored[0]).provenance
    assert provenance["sharing"] in {"auto", "exact", "grafted"}
    assert provenance["weights_sha256"].startswith("safetensors:")


def test_checkpoints_are_appended_and_never_overwritten(scored, model, tmp_path):
    file = tmp_path / "run.h5"
    file.write_bytes(scored[0].read_bytes())
    before = file.read_bytes()
    message = fail("score", tmp_path / "no-model", *GRID, "-o", file)
    assert "already holds checkpoint 0" in message and "--checkpoint 1" in message
    message = fail("score", model, *GRID, "--seed", 1, "--checkpoint", 100, "-o", file)
    assert "another probe set" in message or "on the probe set" in message
    assert file.read_bytes() == before
    few = ["--estimators", "needle_mass, wu_count"]
    succeed("score", model, *GRID, *few, "--checkpoint", 100, "--tokens-seen", "8.4e9", "-o", file)
    scores = hs.open(file)
    assert scores.checkpoint.values.tolist() == [0, 100]
    assert scores.tokens_seen.values[1] == 8.4e9
    for name in ("retrieval", "needle_mass", "wu_count"):
        np.testing.assert_array_equal(scores[name][0], scores[name][1])
    assert np.isnan(scores.sink_mass[1]).all() and not np.isnan(scores.sink_mass[0]).any()
    assert "holds 2 checkpoints" in fail("score", model, *GRID, "--force", "-o", file)


def test_force_replaces_a_file_with_one_checkpoint(scored, model, tmp_path):
    file = tmp_path / "run.h5"
    file.write_bytes(scored[0].read_bytes())
    succeed("score", model, *GRID, "--seed", 1, "--checkpoint", 7, "--force", "-o", file)
    assert hs.open(file).checkpoint.values.tolist() == [7]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".run.h5.lock", "run.h5"]


def meanwhile(monkeypatch, happens):
    """Something happens between scoring and saving."""
    from headscope.interp import scoring

    def score_heads(*arguments, **options):
        found = scored_as_ever(*arguments, **options)
        happens()
        return found

    scored_as_ever = scoring.score_heads
    monkeypatch.setattr(scoring, "score_heads", score_heads)


def unsaved(*arguments):
    """The error line of a command that computed and could not save; the numbers are shown all the same."""
    result = run(*arguments)
    assert result.exit_code == 2 and "retrieval heads" in result.stdout, (result.stderr, result.exception)
    return result.stderr.strip()


def test_scores_are_not_lost_when_another_writer_comes_in_between(scored, model, tmp_path, monkeypatch):
    file = tmp_path / "run.h5"
    later = "score", model, *GRID, "--checkpoint", 5, "-o", file
    meanwhile(monkeypatch, lambda: read_scores(scored[0]).save(file, checkpoint=9))
    message = unsaved(*later)
    assert f"could not write {file} (checkpoint 5 comes before the last one" in message
    command = message.split(": headscope ")[1].split()
    assert command[:2] == ["merge", str(file)] and command[3:] == ["-o", str(file)]
    succeed(*command)
    assert hs.open(file).checkpoint.values.tolist() == [5, 9]


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["append", "force"])
def test_scores_are_not_lost_with_their_folder(scored, model, tmp_path, monkeypatch, force):
    folder, here = tmp_path / "mount", tmp_path / "here"
    folder.mkdir(), here.mkdir()
    monkeypatch.chdir(here)
    meanwhile(monkeypatch, lambda: shutil.rmtree(folder))
    message = unsaved("score", model, *GRID, "-o", folder / "run.h5", *force)
    (kept,) = here.glob("run.unsaved-*.h5")
    assert f"the scores are in {kept}: headscope merge {kept} -o {folder / 'run.h5'}" in message
    np.testing.assert_array_equal(hs.open(kept).retrieval, hs.open(scored[0]).retrieval)


def test_force_waits_for_the_lock_and_takes_nothing_from_its_holder(scored, model, tmp_path, monkeypatch):
    from headscope.interp.store import results_file as store

    file = tmp_path / "run.h5"
    file.write_bytes(scored[0].read_bytes())
    held = FileLock(tmp_path / ".run.h5.lock")
    monkeypatch.setattr(store, "LOCK_TIMEOUT", 0.1)
    meanwhile(monkeypatch, held.acquire)
    try:
        message = unsaved("score", model, *GRID, "--seed", 1, "--checkpoint", 7, "--force", "-o", file)
    finally:
        held.release()
    assert "another process has held" in message and "the scores are in" in message
    assert file.read_bytes() == scored[0].read_bytes()


def test_a_held_lock_is_noticed_before_the_model_is_loaded(tmp_path, monkeypatch):
    from headscope.interp.store import results_file as store

    monkeypatch.setattr(store, "LOCK_TIMEOUT", 0.1)
    with FileLock(tmp_path / ".run.h5.lock"):
        assert "another process has held" in fail("score", tmp_path / "no-model", "-o", tmp_path / "run.h5")


def test_a_saved_probe_set_scores_like_the_set_it_was_built_from(scored, model, tmp_path):
    saved, file = tmp_path / "probes.npz", tmp_path / "run.h5"
    out = succeed("probes", "build", "grid", *GRID[2:], "--tokenizer", model, "-o", saved)
    assert str(saved) in out.replace("\n", "")
    succeed("score", model, "--probes", saved, "--sharing", "exact", "--check-sharing", 0, "-o", file)
    assert hs.open(file).attrs["probe_set_hash"] == hs.open(scored[0]).attrs["probe_set_hash"]
    assert hs.open(file).attrs["probe_set_hash"] in out


def test_a_terminal_sees_progress_and_colours(model, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    result = run("score", model, *GRID, "-o", tmp_path / "run.h5")
    assert result.exit_code == 0
    assert "100%" in result.stderr and "loading tiny-llama" in result.stderr
    assert "\x1b[" in result.stdout and "100%" not in result.stdout


def test_generated_answers_add_their_own_estimator(model, tmp_path):
    succeed("score", model, *GRID, "--generate", "-o", tmp_path / "run.h5")
    assert "wu_count_generated" in hs.open(tmp_path / "run.h5")


def test_scores_are_exported_for_other_tools(scored, tmp_path):
    table = succeed("export", scored[0], "--format", "csv").splitlines()
    assert len(table) == 1 + 4 * 8 and table[0].startswith("checkpoint,")
    heads = json.loads(succeed("export", scored[0], "--format", "retrieval-head"))
    assert set(heads) == {f"{layer}-{head}" for layer in range(4) for head in range(8)}
    duo = tmp_path / "full_attention_heads.tsv"
    succeed("export", scored[0], "--format", "duo-attention", "-o", duo)
    best = hs.open(scored[0]).retrieval.values[0].reshape(4, 2, 4).max(axis=2)
    np.testing.assert_allclose(np.loadtxt(duo), best, rtol=1e-6)
    assert "-o heads.parquet" in fail("export", scored[0], "--format", "parquet")
    assert "checkpoint 5" in fail("export", scored[0], "--format", "csv", "--checkpoint", 5)


def test_heads_of_a_strong_model_are_exported_as_a_string(tmp_path):
    make_scores().save(tmp_path / "run.h5")
    assert succeed("export", tmp_path / "run.h5", "--format", "qrhead").startswith("18-6,17-3,18-7,")
    assert succeed("export", tmp_path / "run.h5", "--format", "qrhead", "--top", 2) == "18-6,17-3\n"
    make_scores(leading=()).save(tmp_path / "weak.h5")
    assert "--top 16" in fail("export", tmp_path / "weak.h5", "--format", "qrhead")


def test_remedies_are_in_the_words_of_the_command_line(model, tmp_path):
    assert "leave out --chat" in fail("score", model, *GRID, "--chat", "-o", tmp_path / "run.h5")
    bare = tmp_path / "bare"
    build("llama").save_pretrained(bare)
    assert "pass --tokenizer <folder or hub id>" in fail("score", bare, *GRID, "-o", tmp_path / "run.h5")
    (bare / "model.safetensors").rename(bare / "pytorch_model.bin")
    message = fail("score", bare, *GRID, "--tokenizer", model, "-o", tmp_path / "run.h5")
    assert "pass --allow-pickle" in message


TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ raise_exception('no system message') }}{% endif %}"
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant{% if loud is defined and loud %} {{ loud }}{% endif %}]{% endif %}"
)


@pytest.fixture
def chatty(tokenizer, tmp_path) -> Path:
    """The tokenizer with a chat template that wants a system message."""
    folder = tmp_path / "chatty"
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


def test_a_chat_takes_a_system_prompt_and_template_arguments(chatty, tmp_path):
    show = ["probes", "show", "grid", "0", "--tokenizer", chatty, "--lengths", "384", "--depths", "2"]
    chat = [*show, "--chat", "--system", "Be brief."]
    quiet = " ".join(succeed(*chat, "--template-arg", "loud=False").split())
    assert "[system]Be brief.[user]" in quiet
    assert "[assistant]Answer:" in quiet
    assert "[assistant very]Answer:" in " ".join(succeed(*chat, "--template-arg", "loud=very").split())
    assert "fails: no system message; give a system message with --system ..." in fail(*show, "--chat")
    assert "add --chat" in fail(*show, "--system", "Be brief.")
    assert "add --chat" in fail(*show, "--template-arg", "loud=very")
    assert "never reads" in fail(*chat, "--template-arg", "lout=very")
    assert "give NAME=VALUE" in fail(*chat, "--template-arg", "loud")
    saved = tmp_path / "grid.npz"
    succeed("probes", "build", "grid", *chat[4:], "-o", saved)
    assert "--chat, --system: " in fail("probes", "show", saved, "--tokenizer", chatty, "--chat", "--system", "x")


def test_the_quickstart_runs(model, tmp_path, monkeypatch):
    script = Path(__file__).resolve().parents[1] / "examples" / "quickstart.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), str(model)])
    runpy.run_path(str(script), run_name="__main__")
    assert hs.open("run.h5").sizes["layer"] == 4
    assert Path("figures", "overview.png").is_file()


def test_bad_models_and_probes_are_told_before_anything_is_written(model, tokenizer, tmp_path):
    file = tmp_path / "run.h5"
    assert "no file or folder" in fail("score", "./no-such-model", "-o", file)
    assert "4096" in fail("score", model, "--probes", "grid", "--lengths", "8k", "-o", file)
    broken = build("llama", vocab_size=len(tokenizer))
    broken.model.layers[2].mlp.up_proj.weight.data[3, 5] = float("nan")
    broken.save_pretrained(tmp_path / "broken")
    assert "no tokenizer" in fail("score", tmp_path / "broken", *GRID, "-o", file)
    assert "NaN" in fail("score", tmp_path / "broken", *GRID, "--tokenizer", model, "-o", file)
    assert "revisions are for hub ids" in fail("score", model, *GRID, "--revision", "main", "-o", file)
    assert "got 'float7'" in fail("score", model, *GRID, "--dtype", "float7", "-o", file)
    assert not file.exists()


def test_probes_of_another_tokenizer_are_refused(model, tmp_path):
    saved = tmp_path / "grid.npz"
    succeed("probes", "build", *GRID[1:], "--tokenizer", model, "-o", saved)
    other = tmp_path / "other"
    other.mkdir()
    text = (model / "tokenizer.json").read_text(encoding="utf-8")
    changed = json.loads(text)
    vocabulary = changed["model"]["vocab"]
    vocabulary["Ġthe"], vocabulary["Ġof"] = vocabulary["Ġof"], vocabulary["Ġthe"]
    for path in model.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "tokenizer.json").write_text(json.dumps(changed), encoding="utf-8")
    assert "tokenizer" in fail("score", other, "--probes", saved, "-o", tmp_path / "run.h5").lower()
    assert not (tmp_path / "run.h5").exists()


@pytest.mark.parametrize(
    ("arguments", "phrases"),
    [
        (["scoer"], ["No such command 'scoer'"]),
        (["score"], ["Missing argument 'MODEL'"]),
        (["score", "x"], ["Missing option '-o'"]),
        (["score", "x", "-o", "r.h5", "--lenghts", "1k"], ["No such option: --lenghts", "--lengths"]),
        (["score", "x", "-o", "r.h5", "--lengths", "1k,two"], ["--lengths", "'two'", "1k (= 1024)"]),
        (["score", "x", "-o", "r.h5", "--lengths", ""], ["--lengths", "1k (= 1024)"]),
        (["score", "x", "-o", "r.h5", "--depths", "0,1.5"], ["--depths", "'0,1.5'", "from 0 to 1"]),
        (["score", "x", "-o", "r.h5", "--depths", "many"], ["--depths", "'many'", "how many (11)"]),
        (["score", "x", "-o", "r.h5", "--depths", "0"], ["--depths", "'0'"]),
        (["score", "x", "-o", "r.h5", "--needles", "0"], ["--needles", "0"]),
        (["score", "x", "-o", "r.h5", "--kind", "poem"], ["--kind", "poem", "sentence"]),
        (["score", "x", "-o", "r.h5", "--sharing", "some"], ["--sharing", "grafted"]),
        (["score", "x", "-o", "r.h5", "--checkpoint", "-1"], ["--checkpoint", "-1"]),
        (
            ["score", "x", "-o", "r.h5", "--estimators", "sinkmass"],
            ["--estimators", "did you mean 'sink_mass'", "wu_c"],
        ),
        (["sweep", "x", "-o", "r.h5", "--estimators", "wu_count,"], ["--estimators", "''", "built in: retrieval"]),
        (
            ["score", "x", "-o", "r.h5", "--probes", "gird"],
            ["is called 'gird'", "did you mean grid?", "smoke"],
        ),
        (["score", "x", "-o", "r.h5", "--probes", "none.npz"], ["none.npz"]),
        (["score", "x", "-o", "r.h5", "--probes", "junk.npz"], ["junk.npz"]),
        (["score", "x", "-o", "missing/r.h5"], ["the folder missing does not exist", "mkdir -p missing"]),
        (["score", "x", "-o", "."], [". is a folder", "run.h5"]),
        (["score", "x", "-o", "r.h5", "--figures", "junk.npz"], ["--figures", "junk.npz is a file"]),
        (["score", "x", "-o", "foreign.h5"], ["foreign.h5", "not written by headscope"]),
        (["score", "x", "-o", "foreign.h5", "--force"], ["foreign.h5", "not written by headscope"]),
        (["score", "x", "-o", "junk.npz"], ["junk.npz is not an HDF5 file"]),
        (["score", "x", "-o", "cut.h5"], ["cut.h5"]),
        (["validate", "nothing.h5"], ["nothing.h5 does not exist"]),
        (["validate", "foreign.h5"], ["not written by headscope"]),
        (["export", "nothing.h5", "--format", "csv"], ["nothing.h5 does not exist"]),
        (["export", "foreign.h5", "--format", "excel"], ["--format", "csv"]),
        (["probes", "show", "grid"], ["--tokenizer"]),
        (["probes", "show", "gird", "--tokenizer", "x"], ["did you mean grid?"]),
        (["probes", "show", "grid", "--tokenizer", "./nowhere"], ["./nowhere", "check the path"]),
        (["probes", "build", "grid", "-o", "p.npz"], ["--tokenizer"]),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value, list) else None,
)
def test_mistakes_cost_one_line_and_touch_nothing(arguments, phrases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "junk.npz").write_bytes(b"not a zip file")
    make_scores().save("whole.h5")
    (tmp_path / "cut.h5").write_bytes((tmp_path / "whole.h5").read_bytes()[:3000])
    with h5py.File("foreign.h5", "w") as file:
        file["x"] = [1, 2, 3]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    message = fail(*arguments)
    for phrase in phrases:
        assert phrase in message
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_an_output_that_cannot_be_written_is_told_first(tmp_path):
    tmp_path.chmod(0o500)
    assert "not writable" in fail("score", "x", "-o", tmp_path / "run.h5")


def test_debug_shows_the_traceback_of_user_errors(monkeypatch):
    monkeypatch.setenv("HEADSCOPE_DEBUG", "1")
    result = run("validate", "nothing.h5", "--frob")
    assert result.exit_code != 0 and result.exception is not None and not isinstance(result.exception, SystemExit)


def test_unexpected_errors_keep_their_traceback(monkeypatch):
    from headscope.interp import environment

    for broken in (lambda: np.zeros(2).reshape(3), lambda: {}["key"], lambda: int("x")):
        monkeypatch.setattr(environment, "describe", broken)
        result = run("env")
        assert isinstance(result.exception, (ValueError, KeyError)) and result.stderr == ""


def test_interrupting_ends_with_130(monkeypatch):
    from headscope.interp import environment

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(environment, "describe", interrupted)
    result = run("env")
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"


def test_env_names_the_versions():
    import torch

    out = succeed("env")
    assert hs.__version__ in out and torch.__version__ in out


def test_probes_can_be_listed_and_looked_at(model):
    listed = succeed("probes", "list")
    for name in ("smoke", "heads", "grid", "grid_nested"):
        assert name in listed
    shown = succeed("probes", "show", "grid", 1, "--tokenizer", model, *GRID[2:])
    probe = hs.probes.build("grid", load_tokenizer(model), lengths=[384, 512], depths=2, needles=2, seed=0)[1]
    assert probe.id in shown
    assert probe.answer_text.strip().split()[0] in shown


def test_suites_are_built_by_task(model, tmp_path):
    given = (
        "--task",
        "niah_single_1,niah_multikey_2",
        "--task",
        "fwe",
        "--items",
        2,
        "--lengths",
        "900",
        "--compat",
        "ruler",
    )
    succeed("probes", "build", "ruler", "--tokenizer", model, *given, "-o", tmp_path / "ruler.npz")
    saved = hs.probes.ProbeSet.load(tmp_path / "ruler.npz")
    tasks = ["niah_single_1", "niah_multikey_2", "fwe"]
    asked = {"tasks": tasks, "items": 2, "lengths": [900], "compat": "ruler"}
    assert saved.hash == hs.probes.build("ruler", load_tokenizer(model), **asked).hash
    listed = succeed("probes", "list", "ruler")
    assert all(task in listed for task in (*tasks, "qa_1_own", "qa_2"))
    for wrong, message in (
        (("--task", "vtt"), "Did you mean 'vt'"),
        (("--task", "qa_1"), "--qa-file"),
        (("--task", "qa_1", "--qa-file", tmp_path / "none.json"), "does not exist"),
        (("--items", 0), "--items"),
        (("--compat", "harness"), "use one of '', 'ruler'"),
    ):
        assert message in fail("probes", "build", "ruler", "--tokenizer", model, *wrong, "-o", tmp_path / "x.npz")
    assert "holds probes that are built already" in fail(
        "probes", "show", tmp_path / "ruler.npz", "--tokenizer", model, "--task", "vt"
    )


def load_tokenizer(model):
    from headscope.interp.model.loading import load_tokenizer

    return load_tokenizer(model)


def test_what_cannot_work_is_said_before_the_model_is_run(model, tmp_path):
    target = tmp_path / "run.h5"
    assert "to 2147483647" in fail("score", model, "-o", target, "--checkpoint", 2**31)
    assert f"give one of the folders inside it, such as {model}" in fail("score", model.parent, "-o", target)
    assert "MODEL: got an empty name" in fail("score", "", "-o", target)
    assert "is a folder" in fail("probes", "build", "smoke", "--tokenizer", model, "-o", tmp_path)
    assert "is a folder" in fail("validate", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [("--help",), ("export", "FILE", "--format", "csv"), ("report", "FILE")])
def test_a_stdout_that_takes_no_more_costs_one_line(tmp_path, arguments):
    path = tmp_path / "run.h5"
    make_scores().save(path)
    given = [str(path) if argument == "FILE" else argument for argument in arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "headscope", *given], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr == "error: cannot write: No space left on device; make room, or write to another place\n"


def test_a_check_of_sharing_with_nothing_to_compare_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Where windows hide the needle from every head, there is no difference of a head to tell."""
    from headscope.cli.score import show
    from made_scores import make_scores

    nothing = dict.fromkeys(("pearson", "top10_overlap", "max_difference", "leading_difference"))
    show(make_scores(provenance={"check_sharing": {"n_probes": 3, "nll_gap": 0.25, **nothing}}), 1.0)
    said = " ".join(capsys.readouterr().out.split())
    assert "Pearson over heads -, largest difference of a head -, NLL +0.250" in said
