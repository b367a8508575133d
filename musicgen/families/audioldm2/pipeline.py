"""Loads AudioLDM 2's engine around diffusers' pipeline: safetensors only, no network, no progress bars."""

from pathlib import Path
from typing import cast

import torch

from musicgen.errors import ModelError, first_line
from musicgen.families.audioldm2.checkpoint_sizes import AudioLdm2Spec
from musicgen.families.audioldm2.denoising_engine import AudioLdm2Engine, Pipeline
from musicgen.families.family import EngineSettings
from musicgen.model.load import pick_device, pick_dtype


def load_denoising_engine(folder: Path, spec: AudioLdm2Spec, settings: EngineSettings) -> AudioLdm2Engine:
    """Load the checkpoint onto the device. Raises `ModelError`.

    On a CPU the dtype "auto" is float32, in which the tests compare clips with diffusers.
    """
    from diffusers import AudioLDM2Pipeline
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    device = pick_device(settings.device)
    dtype = torch.float32 if settings.dtype == "auto" and device.type == "cpu" else pick_dtype(settings.dtype, device)
    torch.set_num_threads(settings.threads)
    try:
        pipeline = AudioLDM2Pipeline.from_pretrained(
            folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{folder} cannot be loaded as AudioLDM 2: {first_line(error)}") from None
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    return AudioLdm2Engine(cast(Pipeline, pipeline), spec, settings.threads)
