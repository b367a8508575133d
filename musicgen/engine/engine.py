"""The engine: requests in, clips out. It owns the slots and lets the scheduler decide who runs."""

import json
import logging
import time
from collections import deque
from concurrent.futures import Future, wait
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from musicgen.clip import Clip, Failed
from musicgen.conditioning.conditions import Conditioner, Prepared
from musicgen.conditioning.workers import Beside
from musicgen.engine import memory
from musicgen.engine.decode_queue import DecodeQueue
from musicgen.engine.scheduler import Scheduler
from musicgen.engine.sequence import Sequence, Window, full_pattern_name
from musicgen.engine.stepper import TEXT_CAPACITY, Stepper
from musicgen.errors import RowError
from musicgen.patterns import length
from musicgen.request import Request

if TYPE_CHECKING:
    from musicgen.model import Model

log = logging.getLogger(__name__)

_MAX_CONDITIONS_WAIT_S = 0.5  # for conditions; a melody may be long in coming
_OUT_OF_MEMORY_MESSAGES = (
    "not enough memory",
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
_MAX_STEPS_PER_RUN = 32  # at most, between two looks at what has arrived


class Engine:
    """Continuous generation over a fixed number of slots. One thread drives it; conditioning and codec run beside.

    A request's codes and sound depend on the request and the engine's `fingerprint` alone: not on the slot, on what runs
    beside, or on the order. `slots="auto"` plans them from free memory. `max_frames` is a hint, the frames of the longest
    request to come: it only saves memory.
    """

    def __init__(
        self,
        model: "Model",
        slots: int | str = "auto",
        threads: int | None = None,
        conditioner: Conditioner | None = None,
        max_frames: int | None = None,
    ):
        spec = model.spec
        self.model = model
        self.threads = threads or torch.get_num_threads()
        model.decoder.ops.threads = self.threads
        self._width = 3 if spec.kind == "style" else 2
        window = min(max_frames or spec.max_frames, spec.max_frames)
        self._conditioner: Any = conditioner if conditioner is not None else _default_conditioner(model)
        self._capacity = length(full_pattern_name(spec), spec.codebooks, window)
        if spec.kind != "text":  # a melody or style stands in front of the codes, and the text with it
            self._capacity += getattr(self._conditioner, "sound_positions", spec.chroma_length) + max(
                TEXT_CAPACITY, spec.text_length
            )
        if slots == "auto":
            planned = memory.plan_slots(model.decoder, self._width, self._capacity)
            log.info("planned %d slots of %d positions: %.2f GB", planned.slots, planned.capacity, planned.nbytes / 1e9)
            slots = planned.slots
        elif not isinstance(slots, int) or slots < 1:
            raise ValueError(f"slots is a positive number or 'auto', not {slots!r}")
        self._planned_slots = slots
        self._scheduler: Scheduler[_RunningRequest] = Scheduler(slots)
        self._made: Stepper | None = Stepper(model.decoder, slots, self._width, self._capacity)
        workers = 1 if model.device.type == "cuda" else max(1, min(4, self.threads))
        self._beside = Beside(model.device, workers)
        self._decode_queue: DecodeQueue[_RunningRequest] = DecodeQueue(model.codec.decode_all, self._beside, workers)
        self._finished: deque[Clip | Failed] = deque()
        self.steps = 0  # decode steps so far
        self.step_s = 0.0  # seconds in them

    # ------------------------------------------------------------ the seam

    @property
    def slots(self) -> int:
        """Clips that run at once."""
        return self._scheduler.slots

    @property
    def room(self) -> int:
        """How many more requests it would like, to keep the slots full and the next conditions prepared."""
        return max(0, 2 * self.slots - len(self._scheduler.running) - len(self._scheduler.waiting))

    @property
    def busy(self) -> bool:
        """Whether `step` has anything left to do or to give back."""
        return not self._scheduler.idle or bool(self._decode_queue) or bool(self._finished)

    @property
    def fingerprint(self) -> str:
        """What, beside the request, the bits may depend on: JSON for the index column `engine`."""
        parts: dict[str, str | int] = {
            "musicgen": _package_version(),
            "torch": torch.__version__,
            "transformers": version("transformers"),
            "device": self.model.device.type
            if self.model.device.type == "cpu"
            else torch.cuda.get_device_name(self.model.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "path": self.model.decoder.ops.name,
            "slots": self.slots,
            "threads": self.threads,
        }
        if self.model.device.type == "cpu":  # what text encoder, codec and conditioners compute with
            parts["vectors"] = torch.backends.cpu.get_cpu_capability()
        if self.slots != self._planned_slots:
            parts["halved_from"] = self._planned_slots
        return json.dumps(parts, separators=(",", ":"))

    def add(self, request: Request) -> None:
        """Queue a resolved request. Raises RowError("invalid") for one that this model cannot make."""
        spec = self.model.spec
        if request.seed is None:
            raise ValueError("the engine takes resolved requests; call request.resolve() first")
        if request.melody and not (spec.supports("melody") or spec.supports("style")):
            raise RowError(
                "invalid", "this model takes no melody; melody presets are musicgen-melody and musicgen-melody-large"
            )
        job = _RunningRequest(request)
        self._scheduler.add(job)
        if hasattr(self._conditioner, "expect"):
            self._conditioner.expect(request)
        if len(self._scheduler.waiting) <= 2 * self.slots:
            self._prepare(job)

    def step(self) -> list[Clip | Failed]:
        """Run to the next event (a slot falls free, or a while has passed) and return what is finished, perhaps nothing.

        Waits only when nothing but conditions or sound that are still being made is left.
        """
        full = False
        try:
            self._admit()
            if self._scheduler.running:
                self._run()
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            full = True
        if full:  # only now: the exception's frames hold the caches that are to be freed
            self._shrink()
        self._collect()
        finished = list(self._finished)
        self._finished.clear()
        return finished

    def close(self) -> None:
        """Stop the threads; requests that are not finished are dropped."""
        self._beside.close()
        if hasattr(self._conditioner, "close"):
            self._conditioner.close()

    # ------------------------------------------------------------ a clip's way

    def _prepare(self, job: "_RunningRequest") -> Future[list[Prepared | Exception]]:
        if job.preparing is None:
            job.preparing = self._beside.submit(self._conditioner.prepare, [job.request])
        return job.preparing

    def _admit(self) -> None:
        for job in list(self._scheduler.waiting)[: self.slots]:
            self._prepare(job)
        while self._scheduler.waiting:
            preparing = self._prepare(self._scheduler.waiting[0])
            if self._scheduler.running and not preparing.done():
                if (
                    len(self._scheduler.running) <= self.slots // 2
                ):  # then waiting a little is cheaper than running half empty
                    wait([preparing], _MAX_CONDITIONS_WAIT_S)
                if not preparing.done():
                    return  # the others go on meanwhile
            admitted = self._scheduler.admit()
            if admitted is None:
                return
            slot, job = admitted
            try:
                (prepared,) = preparing.result()
                if isinstance(prepared, Exception):
                    raise prepared
                job.track = Sequence(job.request, prepared, self.model.spec)
                if job.track.known >= job.track.frames:
                    raise RowError("melody", "the continuation is as long as the clip; ask for a larger duration_s")
                self._next_window(slot, job)
            except RowError as error:
                self._scheduler.release(slot)
                self._finished.append(Failed(job.request, error))

    def _next_window(self, slot: int, job: "_RunningRequest") -> None:
        """Place the clip's next window, or give its codes to the codec and free the slot."""
        assert job.track is not None
        job.window = job.track.next_window()
        if job.window is None:
            self._scheduler.release(slot)
            job.codes = job.track.final_codes()
            job.engine = self.fingerprint
            self._decode_queue.add(job, job.codes)
            return
        prepared: Prepared = job.track.prepared
        conditions = prepared.window(job.window.start, job.window.frames)
        self._stepper.place(slot, job.window, conditions, job.request)
        self._scheduler.start(slot, job.window.steps)

    def _run(self) -> None:
        coming = (
            self._scheduler.waiting and len(self._scheduler.running) < self.slots
        )  # a free slot, its conditions on the way
        steps = min(self._scheduler.horizon, 2 if coming else _MAX_STEPS_PER_RUN)
        started = time.perf_counter()
        self._stepper.step(steps)
        self.steps += steps
        done = self._scheduler.advance(steps)
        for slot in done:
            job = self._scheduler.running[slot]
            assert job.track is not None
            assert job.window is not None
            sequence = self._stepper.take(slot, job.window.sequence.shape[1])
            try:
                job.track.fill_window(job.window, sequence)
                self._stepper.clear(slot)
            except RowError as error:
                self._stepper.clear(slot, wipe=True)
                self._scheduler.release(slot)
                self._finished.append(Failed(job.request, error))
        self.step_s += time.perf_counter() - started
        for slot in done:
            if slot in self._scheduler.running:
                self._next_window(slot, self._scheduler.running[slot])

    def _collect(self) -> None:
        alone = not self._scheduler.running
        for job, audio in self._decode_queue.poll(last=alone, block=alone and not self._finished):
            assert job.codes is not None
            if isinstance(audio, Exception):
                if _is_out_of_memory(audio) and not job.decoded_twice:
                    job.decoded_twice = True
                    self._decode_queue.add(job, job.codes)
                    continue
                self._finished.append(
                    Failed(job.request, RowError("generation", f"the codec could not decode it: {audio}"))
                )
            elif not np.isfinite(audio).all():
                self._finished.append(
                    Failed(job.request, RowError("generation", "the codec made sound that is not finite"))
                )
            else:
                self._finished.append(Clip(job.request, job.codes, audio, self.model.spec.sample_rate, job.engine))

    # ------------------------------------------------------------ memory

    @property
    def _stepper(self) -> Stepper:
        """The slots' state; after a lack of memory it is allocated anew when it is first needed."""
        if self._made is None:
            self._made = Stepper(self.model.decoder, self.slots, self._width, self._capacity)
        return self._made

    def _shrink(self) -> None:
        """Out of memory: go on with half the slots. What ran begins again, and comes out the same."""
        if self.slots == 1:
            for slot in list(self._scheduler.running):
                job = self._scheduler.release(slot)
                message = "out of memory with a single slot; use a smaller model, a shorter duration_s, or more memory"
                self._finished.append(Failed(job.request, RowError("generation", message)))
        slots = max(1, self.slots // 2)
        log.warning("out of memory with %d slots: going on with %d", self.slots, slots)
        self._made = None
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        self._scheduler.shrink(slots)
        for job in self._scheduler.waiting:
            job.track = job.window = None
            if job.preparing is not None and job.preparing.done() and job.preparing.exception() is not None:
                job.preparing = None  # it may have been this very lack of memory


class _RunningRequest:
    """A request in the engine's hands."""

    __slots__ = ("codes", "decoded_twice", "engine", "preparing", "request", "track", "window")

    def __init__(self, request: Request):
        self.request = request
        self.preparing: Future[list[Prepared | Exception]] | None = None
        self.track: Sequence | None = None
        self.window: Window | None = None
        self.codes: NDArray[np.int16] | None = None
        self.decoded_twice = False
        self.engine = ""


def _default_conditioner(model: "Model") -> Conditioner:
    from musicgen.conditioning.conditioner import RequestConditioner

    return RequestConditioner(model)


def _package_version() -> str:
    try:
        return version("musicgen-batch")
    except PackageNotFoundError:  # run from a folder that is not installed
        return "source"


def _is_out_of_memory(error: Exception) -> bool:
    """CUDA says so by type, the CPU's allocator in words."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY_MESSAGES)
