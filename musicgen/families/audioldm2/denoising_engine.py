"""Generates with AudioLDM 2 (Liu et al. 2023, "AudioLDM 2: Learning holistic audio generation with self-supervised
pretraining") through diffusers' `AudioLDM2Pipeline`.

Clips are made one after the other: in a batch the padding of the prompts reaches the language model, so that a clip's
sound would depend on its neighbors.
"""

import json
from collections import deque
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from musicgen.clip import Clip, Failed
from musicgen.errors import RowError
from musicgen.families.audioldm2.checkpoint_sizes import AudioLdm2Spec
from musicgen.families.audioldm2.noise import draw_normals
from musicgen.model.memory_errors import is_out_of_memory
from musicgen.request import Request
from musicgen.unfinished_clips import UnfinishedClips
from musicgen.version import package_version

_QUEUED = 2  # requests that the engine takes in advance


class PipelineOutput(Protocol):
    """What a pipeline returns."""

    audios: NDArray[np.float32]  # [clips, samples]


class Pipeline(Protocol):
    """The part of diffusers' `AudioLDM2Pipeline` that is used here; the library has no types of its own."""

    device: torch.device
    unet: torch.nn.Module
    scheduler: object

    def __call__(
        self,
        *,
        prompt: str,
        negative_prompt: str | None,
        audio_length_in_s: float,
        num_inference_steps: int,
        guidance_scale: float,
        latents: Tensor,
        callback: Callable[[int, int, Tensor], None],
        callback_steps: int,
    ) -> PipelineOutput:
        """Make one clip; `callback` is called after each of its denoising steps."""


class AudioLdm2Engine:
    """One pipeline on one device. `step` makes one clip; `steps` counts denoising steps."""

    slots = 1
    has_made_clips = False  # it never has another number of slots

    def __init__(self, pipeline: Pipeline, spec: AudioLdm2Spec, threads: int):
        self._pipeline = pipeline
        self._spec = spec
        self._dtype = next(pipeline.unet.parameters()).dtype
        self._threads = threads
        self._queue: deque[Request] = deque()
        self._unfinished = UnfinishedClips()
        self.steps = 0

    @property
    def room(self) -> int:
        """How many more requests the engine should be given now."""
        return max(0, _QUEUED - len(self._queue))

    @property
    def busy(self) -> bool:
        """Whether `step` has anything left to do."""
        return bool(self._queue)

    @property
    def fingerprint(self) -> str:
        """What the bits may depend on besides the request, as JSON: the index column `engine`."""
        device = self._pipeline.device
        parts: dict[str, str | int] = {
            "musicgen": package_version(),
            "torch": torch.__version__,
            "transformers": version("transformers"),
            "diffusers": version("diffusers"),
            "scheduler": type(self._pipeline.scheduler).__name__,
            "device": device.type if device.type == "cpu" else torch.cuda.get_device_name(device),
            "dtype": str(self._dtype).removeprefix("torch."),
            "path": "diffusers",
            "slots": self.slots,
            "threads": self._threads,
        }
        if device.type == "cpu":
            parts["vectors"] = torch.backends.cpu.get_cpu_capability()
        return json.dumps(parts, separators=(",", ":"))

    def add(self, request: Request) -> None:
        """Queue a resolved request. Raises `RowError` for one that the model cannot make."""
        if request.seed is None:
            raise ValueError("the engine takes resolved requests; call request.resolve() first")
        self._spec.check_request(request)
        self._queue.append(request)

    def step(self) -> Sequence[Clip | Failed]:
        """Make the next clip."""
        if not self._queue:
            return []
        request = self._queue.popleft()
        try:
            return [self._make_clip(request)]
        except RowError as error:
            return [Failed(request, error)]
        finally:
            self._unfinished = UnfinishedClips()

    def measure_unfinished(self) -> UnfinishedClips:
        """Return how far the clip is that is being denoised. It is called from another thread."""
        return self._unfinished

    def close(self) -> None:
        """Drop the requests that wait."""
        self._queue.clear()

    def _make_clip(self, request: Request) -> Clip:
        for _ in range(2):
            try:
                audio = self._run_pipeline(request)
                break
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            torch.cuda.empty_cache()  # outside of `except`: the exception's frames hold the tensors
        else:
            raise RowError("generation", "out of memory with a single clip; use a smaller model, or more memory")
        if not np.isfinite(audio).all():
            raise RowError("generation", "the model made sound that is not finite")
        codes = np.zeros((0, request.frames(self._spec.frame_rate)), np.int16)  # this family has no codes
        return Clip(request, codes, audio, self._spec.sample_rate, self.fingerprint)

    def _run_pipeline(self, request: Request) -> NDArray[np.float32]:
        """Return the audio, float32 [1, samples]."""
        seed = request.seed
        assert seed is not None
        frames = request.frames(self._spec.frame_rate)
        shape = self._spec.latent_shape(frames)
        latents = draw_normals(seed, int(np.prod(shape))).reshape(shape)

        steps = request.steps or self._spec.default_steps

        def count_step(step: int, timestep: int, latents: Tensor) -> None:
            self.steps += 1
            share = min(1.0, (step + 1) / steps)
            self._unfinished = UnfinishedClips(share, share * request.duration_s)

        with torch.backends.cudnn.flags(deterministic=True, benchmark=False, allow_tf32=False):
            audio = self._pipeline(
                prompt=request.prompt,
                negative_prompt=request.negative_prompt or None,
                audio_length_in_s=frames / self._spec.frame_rate,
                num_inference_steps=steps,
                guidance_scale=request.guidance_scale,
                latents=latents.to(self._dtype),
                callback=count_step,
                callback_steps=1,
            ).audios
        return np.asarray(audio, np.float32).reshape(1, -1)
