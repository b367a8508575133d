"""Loads MusicGen's engine: the model, the conditioner of its rows, and the slots."""

from math import ceil

import torch

from musicgen.conditioning.conditioner import RequestConditioner
from musicgen.engine import Engine
from musicgen.families.family import EngineSettings
from musicgen.model import load_model
from musicgen.model.checkpoint.resolve import Checkpoint


def load_decoder_engine(checkpoint: Checkpoint, settings: EngineSettings) -> Engine:
    """Load the checkpoint onto the device. Raises `ModelError`."""
    torch.set_num_threads(settings.threads)
    model = load_model(checkpoint, settings.device, settings.dtype)
    conditioner = RequestConditioner(model, store_patience_s=settings.store_patience_s)
    max_frames = ceil(settings.longest_s * model.spec.frame_rate)
    return Engine(model, conditioner, slots=settings.slots, threads=settings.threads, max_frames=max_frames)
