"""What is said of a config's RoPE before training: nothing of models that are known to work, else one line."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import transformers

from headscope.interp.model import rope_lint, rope_warnings

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def config(kind: str = "Llama", positions: int = 4096, base: float = 1e4, **more: Any) -> Any:
    scaling = more.pop("scaling", {"rope_type": "default"})
    return getattr(transformers, f"{kind}Config")(
        max_position_embeddings=positions, rope_parameters={**scaling, "rope_theta": base}, **more
    )


@pytest.mark.parametrize(
    ("made", "length"),
    [
        (config(positions=4096), 4096),  # Llama 2
        (config(positions=8192, base=5e5), 8192),  # Llama 3
        (config(positions=131072, base=5e5, scaling={**LLAMA3, "original_max_position_embeddings": 8192}), 131072),
        (config(positions=8192, base=1e5, hidden_size=576, num_attention_heads=9), 8192),  # SmolLM2
        (config("Mistral", 32768, sliding_window=4096), 32768),  # no layer sees further than its window
        (config("Qwen2", 32768, 1e6, hidden_size=896, num_attention_heads=14), 32768),
        (config("Qwen2", 32768, 1e6, scaling=YARN), 131072),
        (config("Qwen3", 40960, 1e6, scaling=YARN), 131072),
        (config(positions=65536, base=2e6), 65536),  # as the paper of learning dynamics continues
        (transformers.Gemma2Config(), 8192),
        (transformers.Gemma3TextConfig(), 32768),
        (transformers.GPTNeoXConfig(), 2048),
        (transformers.PhiConfig(), 2048),
        (transformers.GPT2Config(), 1024),
        (transformers.BloomConfig(), 2048),
    ],
    ids=lambda value: f"{type(value).__name__}" if not isinstance(value, int) else str(value),
)
def test_silent_for_models_that_work(made: Any, length: int) -> None:
    assert rope_warnings(made, length) == []


@pytest.mark.parametrize(
    ("made", "length", "words"),
    [
        (
            config(positions=16384),
            16384,
            "base 10,000 tells tokens apart up to about 1707 tokens, and 16384 are wanted",
        ),
        (config(positions=262144, base=5e5), 262144, "about 18438 tokens"),
        (config(positions=2048), 4096, "4096 tokens are longer than the 2048"),
        (config("Qwen3", 262144, 1e6, scaling=YARN), 131072, "yarn's factor reaches 4 x 32768 = 131072 tokens only"),
        (config("Qwen2", 8192, 1e6, scaling=YARN), 8192, "starts from 32768 tokens .* which is less"),
    ],
)
def test_one_line_where_it_is_off(made: Any, length: int, words: str) -> None:
    (line,) = rope_warnings(made, length)
    assert "\n" not in line
    assert re.search(words, line)


@pytest.mark.parametrize(("base", "length"), [(4.3e3, 1000), (2.7e4, 4096), (8.4e4, 8192), (6.4e5, 32768)])
def test_the_reach_is_that_of_the_paper(base: float, length: int) -> None:
    """Bounds of arXiv 2405.14591 for heads of 128: at its base for a length the frequencies reach about that far."""
    reach = rope_lint._reach(config(base=base), "", {"rope_theta": base}, 1 << 17)
    assert reach is not None and 0.8 < reach / length < 1.1
    apart, frequencies = np.arange(1, reach + 1), base ** (-np.arange(0, 128, 2) / 128)
    sums = np.cos(np.outer(apart, frequencies)).sum(axis=1)
    assert sums[-1] < 0 <= sums[:-1].min()
