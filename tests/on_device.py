"""Where the GPU tests run: on the GPU; or as toys through Triton's interpreter, so that their own code is tested."""

from __future__ import annotations

import os

import pytest
import torch

TOY = os.environ.get("HEADSCOPE_GPU_TESTS") == "toy" and os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if TOY else "cuda")
needs_gpu = pytest.mark.skipif(not (TOY or torch.cuda.is_available()), reason="needs a GPU")
real_only = pytest.mark.skipif(TOY, reason="nothing a CPU could try")

if TOY:
    import interpreter_shim  # noqa: F401


@pytest.fixture
def toy_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles that take few steps of the interpreter."""
    if TOY:
        from headscope.kernels.gpu import configs

        monkeypatch.setattr(configs, "INTERPRETED", configs.Tile(64, 64, 4, 1))


def size(real: int, toy: int) -> int:
    return toy if TOY else real
