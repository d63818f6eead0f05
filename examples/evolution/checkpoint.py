"""What both trainings do to a model and its folder: another RoPE base, and checkpoints that `headscope sweep` reads."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerState


def set_rope_base(model: PreTrainedModel, base: float) -> None:
    """Other rotary frequencies from here on, and in the config of every checkpoint that follows."""
    model.config.rope_parameters = {**model.config.rope_parameters, "rope_theta": base}
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config=model.config).to(rotary.inv_freq.device)


def write_checkpoint(
    output: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, step: int, seen: int, steps: int
) -> None:
    """Write `output`/checkpoint-STEP as safetensors, with step, tokens seen and tokenizer; it appears whole or not."""
    folder, fresh = output / f"checkpoint-{step}", output / ".checkpoint"
    for old in (fresh, folder):
        shutil.rmtree(old, ignore_errors=True)
    model.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    state = TrainerState(global_step=step, max_steps=steps, num_input_tokens_seen=seen)
    state.save_to_json(str(fresh / "trainer_state.json"))
    os.replace(fresh, folder)
