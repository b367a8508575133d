"""The engine: requests in, clips out. It owns the slots and lets the scheduler decide which request runs in which."""

import logging
from collections import deque
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING

import numpy as np
import torch

from musicgen.clip import Clip, Failed
from musicgen.conditioning.conditions import Conditioner, Prepared
from musicgen.conditioning.workers import BackgroundWorkers
from musicgen.engine import memory
from musicgen.engine.decode_queue import DecodeQueue
from musicgen.engine.device_copies import HostCopy
from musicgen.engine.fingerprint import format_fingerprint
from musicgen.engine.running_request import RunningRequest
from musicgen.engine.scheduler import Scheduler
from musicgen.engine.self_check import check_reproducible
from musicgen.engine.sequence import Sequence, full_pattern_name
from musicgen.engine.stepper import TEXT_CAPACITY, Stepper
from musicgen.errors import RowError
from musicgen.model.memory_errors import is_out_of_memory
from musicgen.model.processor import usable_cpus
from musicgen.patterns import count_steps
from musicgen.request import Request
from musicgen.unfinished_clips import UnfinishedClips

if TYPE_CHECKING:
    from musicgen.model import Model

log = logging.getLogger(__name__)

_MAX_CONDITIONS_WAIT_S = 0.5  # fetching and analyzing a melody may take longer
_STEPS_SHARE = 0.9  # of a clip's progress; the rest is the codec's
_MAX_STEPS_PER_RUN = 32  # between two looks at which conditions and sounds are ready


class Engine:
    """Continuous generation over a fixed number of slots. One thread drives it; conditioning and codec run in the
    background.

    A request's codes and sound depend on the request and on the engine's `fingerprint` alone: not on its slot, its
    neighbors or the order. `slots="auto"` plans them from free memory. `threads` are the CPU threads of a step (None:
    torch's number, or fewer where this process may not use as many CPUs). `max_frames` is a hint, the frames of the
    longest request to come; it only saves memory. The
    engine closes the conditioner.
    """

    def __init__(
        self,
        model: "Model",
        conditioner: Conditioner,
        slots: int | str = "auto",
        threads: int | None = None,
        max_frames: int | None = None,
    ):
        spec = model.spec
        self.model = model
        self.threads = threads or min(torch.get_num_threads(), usable_cpus())
        self._decoder = model.decoder.with_threads(self.threads)
        self._conditioner = conditioner
        self._width = 3 if spec.kind == "style" else 2
        window = min(max_frames or spec.max_frames, spec.max_frames)
        self._capacity = count_steps(full_pattern_name(spec), spec.codebooks, window)
        if spec.kind != "text":  # a melody or style stands in front of the codes, and the text with it
            self._capacity += conditioner.sound_positions + max(TEXT_CAPACITY, spec.text_length)
        if slots == "auto":
            planned = memory.plan_slots(self._decoder, self._width, self._capacity)
            log.info("planned %d slots of %d positions: %.2f GB", planned.slots, planned.capacity, planned.nbytes / 1e9)
            slots = planned.slots
        elif not isinstance(slots, int) or slots < 1:
            raise ValueError(f"slots is a positive number or 'auto', not {slots!r}")
        self._planned_slots = slots
        self._scheduler: Scheduler[RunningRequest] = Scheduler(slots)
        self._captures_steps = self._decoder.ops.captures_graphs
        # The CPU's paths are tested on CPUs; on a GPU libraries choose kernels by the card, and by the slots.
        self._self_check = self._check_bits() if model.device.type == "cuda" else None
        self._allocated_stepper: Stepper | None = memory.allocate_slots(
            self._decoder, slots, self._width, self._capacity
        )
        workers = 2 if model.device.type == "cuda" else max(1, min(4, self.threads))
        self._background = BackgroundWorkers(model.device, workers)
        self._decode_queue: DecodeQueue[RunningRequest] = DecodeQueue(model.codec.decode_all, self._background, workers)
        # Finished windows whose codes are on their way to the host, and their slots; None: it has been left.
        self._taken: deque[tuple[RunningRequest, HostCopy, int | None]] = deque()
        self._finished: deque[Clip | Failed] = deque()
        self.has_made_clips = False
        self.steps = 0  # decode steps so far

    # ------------------------------------------------------------ interface

    @property
    def slots(self) -> int:
        """Clips that run at once."""
        return self._scheduler.slots

    @property
    def room(self) -> int:
        """How many more requests keep the slots full and the next conditions prepared."""
        return max(0, 2 * self.slots - len(self._scheduler.running) - len(self._scheduler.waiting))

    @property
    def busy(self) -> bool:
        """Whether `step` has anything left to do or to return."""
        return not self._scheduler.idle or bool(self._taken or self._decode_queue or self._finished)

    @property
    def fingerprint(self) -> str:
        """What the bits may depend on besides the request, as JSON: the index column `engine`."""
        device = self.model.device
        path = self._decoder.ops.name
        if self._captures_steps and (self._allocated_stepper is None or self._allocated_stepper.captures_steps):
            path += "-graphs"
        return format_fingerprint(
            device=device,
            dtype=self.model.dtype,
            path=path,
            slots=self.slots,
            threads=self.threads,
            self_check=self._self_check,
            halved_from=self._planned_slots if self.slots != self._planned_slots else None,
        )

    def add(self, request: Request) -> None:
        """Queue a resolved request. Raises RowError("invalid") for one that this model cannot make."""
        spec = self.model.spec
        if request.seed is None:
            raise ValueError("the engine takes resolved requests; call request.resolve() first")
        if request.melody and not (spec.supports("melody") or spec.supports("style")):
            raise RowError(
                "invalid", "this model takes no melody; melody presets are musicgen-melody and musicgen-melody-large"
            )
        running = RunningRequest(request)
        self._scheduler.add(running)
        self._conditioner.expect(request)
        if len(self._scheduler.waiting) <= 2 * self.slots:
            self._prepare(running)

    def step(self) -> list[Clip | Failed]:
        """Run to the next event (a slot falls free, or `_MAX_STEPS_PER_RUN`) and return what is finished, perhaps
        nothing.

        It blocks only when nothing is left to run and conditions or sound are still being made.
        """
        out_of_memory = False
        try:
            self._read_codes(wait_for_first=self._scheduler.idle)
            self._admit()
            if self._scheduler.running:
                self._run()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            out_of_memory = True
        if out_of_memory:  # not within `except`: the exception's frames hold the caches that are to be freed
            self._shrink()
        self._collect()
        finished = list(self._finished)
        self._finished.clear()
        return finished

    def measure_unfinished(self) -> UnfinishedClips:
        """Return how far the clips are in the slots and in the codec.

        It is called from another thread than `step`, and the decode steps themselves count nothing for it.
        """
        measured = UnfinishedClips()
        for slot, running in list(self._scheduler.running.items()):
            if (sequence := running.sequence) is not None:
                share = sequence.measure_share(running.window, self._scheduler.steps_left(slot))
                measured += UnfinishedClips(_STEPS_SHARE * share, _STEPS_SHARE * share * running.request.duration_s)
        left = [running for running, _, slot in list(self._taken) if slot is None]
        for running in (*left, *self._decode_queue.tickets):
            measured += UnfinishedClips(_STEPS_SHARE, _STEPS_SHARE * running.request.duration_s)
        return measured

    def close(self) -> None:
        """Stop the threads; requests that are not finished are dropped."""
        self._background.close()
        self._conditioner.close()

    # ------------------------------------------------------------ one clip, from conditions to sound

    def _prepare(self, running: RunningRequest) -> Future[list[Prepared | Exception]]:
        if running.preparing is None:
            running.preparing = self._background.submit(self._conditioner.prepare, [running.request])
        return running.preparing

    def _admit(self) -> None:
        """Place requests into free slots, first come, first served, as far as their conditions are ready."""
        for running in list(self._scheduler.waiting)[: self.slots]:
            self._prepare(running)
        while self._scheduler.waiting:
            preparing = self._prepare(self._scheduler.waiting[0])
            if self._scheduler.running and not preparing.done():
                if len(self._scheduler.running) <= self.slots // 2:
                    wait([preparing], _MAX_CONDITIONS_WAIT_S)  # cheaper than running half empty
                if not preparing.done():
                    return  # the placed requests go on meanwhile
            admitted = self._scheduler.admit()
            if admitted is None:
                return
            slot, running = admitted
            try:
                (prepared,) = preparing.result()
                if isinstance(prepared, Exception):
                    raise prepared
                running.sequence = Sequence(running.request, prepared, self.model.spec)
                if running.sequence.known >= running.sequence.frames:
                    raise RowError("melody", "the continuation is as long as the clip; ask for a larger duration_s")
                self._next_window(slot, running)
            except RowError as error:
                self._scheduler.release(slot)
                self._finished.append(Failed(running.request, error))

    def _next_window(self, slot: int | None, running: RunningRequest) -> None:
        """Place the clip's next window, or queue its codes for decoding and free the slot, if it has one still."""
        assert running.sequence is not None
        window = running.sequence.next_window()
        if window is None:
            running.window = None
            if slot is not None:
                self._scheduler.release(slot)
            running.codes = running.sequence.final_codes()
            self.has_made_clips = True
            self._decode_queue.add(running, running.codes)
            return
        assert slot is not None, "only a clip's last window leaves its slot before its codes are read"
        conditions = running.sequence.prepared.window(window.start, window.frames)
        self._stepper.begin_placing(slot, window, conditions, running.request)
        running.window, running.placing = None, window

    def _run(self) -> None:
        """Run all slots to the next event, and take finished windows out of their slots."""
        for slot in self._stepper.fill_slots():
            running = self._scheduler.running[slot]
            assert running.placing is not None
            running.window, running.placing = running.placing, None
            self._scheduler.start(slot, running.window.steps)
        admission_is_near = self._scheduler.waiting and len(self._scheduler.running) < self.slots
        most = 1 if self._stepper.is_filling else 2 if admission_is_near else _MAX_STEPS_PER_RUN
        steps = min(self._scheduler.horizon, most)
        if not steps:  # all that are in slots wait for codes of theirs
            self._read_codes(wait_for_first=True)
            return
        self._stepper.step(steps)
        self.steps += steps
        for slot in self._scheduler.advance(steps):
            self._take_codes(slot)
        self._read_codes()

    def _take_codes(self, slot: int) -> None:
        """Send a finished window's codes to the host; a clip's last window leaves its slot at once where it may."""
        running = self._scheduler.running[slot]
        assert running.sequence is not None
        assert running.window is not None
        codes = self._stepper.take(slot, running.window.sequence.shape[1])
        running.engine = self.fingerprint
        leaves = running.sequence.ends_with(running.window) and self._stepper.reads_live_positions_alone
        self._stepper.clear(slot)
        self._taken.append((running, codes, None if leaves else slot))
        if leaves:
            self._scheduler.release(slot)

    def _read_codes(self, wait_for_first: bool = False) -> None:
        """Read the codes that have come to the host, and go on with their clips."""
        while self._taken and (wait_for_first or self._taken[0][1].is_done):
            wait_for_first = False
            running, codes, slot = self._taken.popleft()
            assert running.sequence is not None
            assert running.window is not None
            try:
                running.sequence.fill_window(running.window, codes.read())
            except RowError as error:
                if slot is not None:
                    self._stepper.wipe(slot)
                    self._scheduler.release(slot)
                self._finished.append(Failed(running.request, error))
            else:
                self._next_window(slot, running)

    def _collect(self) -> None:
        """Take decoded sound from the queue, and check it."""
        no_slot_runs = not self._scheduler.running
        for running, audio in self._decode_queue.poll(last=no_slot_runs, block=no_slot_runs and not self._finished):
            assert running.codes is not None
            if isinstance(audio, Exception):
                if is_out_of_memory(audio) and not running.decoded_twice:
                    running.decoded_twice = True
                    self._decode_queue.add(running, running.codes)
                    continue
                self._fail(running, f"the codec could not decode it: {audio}")
            elif not np.isfinite(audio).all():
                self._fail(running, "the codec made sound that is not finite")
            else:
                self._finished.append(running.make_clip(audio, self.model.spec.sample_rate))

    def _fail(self, running: RunningRequest, message: str) -> None:
        self._finished.append(Failed(running.request, RowError("generation", message)))

    # ------------------------------------------------------------ memory

    @property
    def _stepper(self) -> Stepper:
        """The slots' state; after running out of memory it is allocated again when it is first needed."""
        if self._allocated_stepper is None:
            self._allocated_stepper = Stepper(
                self._decoder, self.slots, self._width, self._capacity, self._captures_steps
            )
        return self._allocated_stepper

    def _check_bits(self) -> str:
        return check_reproducible(self._decoder, self.model.codec, self.slots, self._width)

    def _shrink(self) -> None:
        """Go on with half the slots after running out of memory.

        Requests that ran begin again, and come out the same.
        """
        if self.slots == 1:
            for slot in list(self._scheduler.running):
                running = self._scheduler.release(slot)
                message = "out of memory with a single slot; use a smaller model, a shorter duration_s, or more memory"
                self._fail(running, message)
        slots = max(1, self.slots // 2)
        log.warning("out of memory with %d slots: going on with %d", self.slots, slots)
        if self._allocated_stepper is not None:
            self._captures_steps = self._allocated_stepper.captures_steps
        self._allocated_stepper = None
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        self._scheduler.shrink(slots)
        if self._self_check is not None:
            self._self_check = self._check_bits()
        self._taken = deque(taken for taken in self._taken if taken[2] is None)  # the others begin again
        # While no clip differs, it is an engine that began with these slots.
        if not (self.has_made_clips or self._taken):
            self._planned_slots = slots
        for running in self._scheduler.waiting:
            running.begin_again()
