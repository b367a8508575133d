"""The slots on the device: sequences, positions and cache, and the step that moves every live slot by one.

Slot s has `width` rows of the cache, s, slots + s, ...: one per guidance branch. Which slots are live changes only at
events (a clip ends, another begins). Then the step's batch is built: which tokens it runs, in which order, and each
clip's sampling parameters. A step itself is a fixed run of device operations, without a loop over rows and without
reading anything back. On CUDA it is captured whole, sampling included (`musicgen/model/decoder/cuda_graphs.py`).
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from musicgen.conditioning.conditions import Conditions
from musicgen.engine.device_copies import HostCopy, record_event, upload_array
from musicgen.engine.fused_step import run_fused_step
from musicgen.engine.prefill import PREFILL_TOKENS, FilledChunk
from musicgen.engine.sampling import sample_codes
from musicgen.engine.sequence import Window
from musicgen.engine.slot_filler import SlotFiller
from musicgen.engine.step_batch import BatchBuffer, PlacedWindow, StepBatch, build_batch, sampling_params
from musicgen.model.decoder.cuda_graphs import StepGraphs
from musicgen.model.decoder.decoder import Decoder, KVCache
from musicgen.model.decoder.ops import LayerCache
from musicgen.model.decoder.triton_ops import TritonOps
from musicgen.request import Request

TEXT_CAPACITY = 64  # text states that are allocated to begin with
# While slots run, others are filled for about as long as so many steps take: a step's products are those of its tokens.
_WAIT_STEPS = 4
_RUNS_AHEAD = 2  # calls of `step` that the host may be ahead of the device: it has work, and events stay near
_LEAST_CHUNK = 32  # tokens; fewer take as long, because all weights are read for them


class Stepper:
    """The state of `slots` slots with up to `width` branches. Placing and clearing are events; `step` moves all of
    them.

    `capture_steps`: whether steps are captured as graphs, where the decoder's operations can.
    """

    def __init__(self, decoder: Decoder, slots: int, width: int, capacity: int, capture_steps: bool = True):
        self.decoder, self.slots, self.width = decoder, slots, width
        spec = decoder.spec
        self.device = decoder.device
        self.static = decoder.ops.static_shapes
        self._fused = isinstance(decoder.ops, TritonOps)
        self.cache: KVCache = decoder.allocate_cache(slots * width, capacity, slots, TEXT_CAPACITY)
        decoder.reserve_positions(self.cache.capacity)
        self.sequence = torch.zeros(slots, spec.codebooks, capacity + 1, dtype=torch.int64, device=self.device)
        self.at = torch.zeros(slots, dtype=torch.int64, device=self.device)  # the step whose codes each slot reads next
        self._filler = SlotFiller(decoder, self.cache, slots)
        self._placed: dict[int, PlacedWindow] = {}
        self._ahead: deque[torch.cuda.Event] = deque()  # of the latest calls of `step`, when the device has done them
        self._filling: dict[int, Iterator[FilledChunk]] = {}  # by slot, first come, first served
        self._batch: StepBatch | None = None
        capture = decoder.ops.new_graph_capture() if capture_steps else None
        self._graphs = None if capture is None else StepGraphs(capture)
        needs_buffer = self._graphs is not None or self.device.type != "cpu"
        self._batch_buffer = BatchBuffer(self.device) if needs_buffer else None

    @property
    def captures_steps(self) -> bool:
        """Whether steps are captured as graphs; False from the first capture that failed."""
        return self._graphs is not None and self._graphs.active

    # ------------------------------------------------------------ events

    def place(self, slot: int, window: Window, conditions: Conditions, request: Request) -> None:
        """Put a window into a slot, ready to run."""
        self.begin_placing(slot, window, conditions, request)
        while self._placed[slot].is_filling:
            self.fill_slots()

    @torch.inference_mode()
    def begin_placing(self, slot: int, window: Window, conditions: Conditions, request: Request) -> None:
        """Put a window into a slot. `fill_slots` writes its text, prefix and known steps to the cache."""
        offset, length = conditions.prefix_length, window.sequence.shape[1]
        text_lengths = [0 if branch.cross is None else branch.cross.shape[0] for branch in conditions.branches]
        if any(text_lengths[1:]):
            raise ValueError("only a window's first branch attends to text")
        self._ensure_capacity(offset + length, length, max(text_lengths))
        params = sampling_params(request, conditions, window.index)
        self._placed[slot] = PlacedWindow(offset, window.known - 1, text_lengths, params)
        self._filling[slot] = self._fill(slot, window, conditions)
        self._batch = None

    @property
    def is_filling(self) -> bool:
        """Whether a slot's window is not ready yet."""
        return bool(self._filling)

    @torch.inference_mode()
    def fill_slots(self) -> list[int]:
        """Go on with the windows that are being placed, first come, first served; return the slots that are ready.

        Slots that have begun to make codes wait no longer than a few of their steps take; without any, all windows are
        made ready.
        """
        running = [placed for placed in self._placed.values() if not placed.is_filling]
        budget = None
        if any(placed.has_stepped for placed in running):
            budget = _WAIT_STEPS * sum(len(placed.text_lengths) for placed in running)
        self._filler.chunk_tokens = PREFILL_TOKENS if budget is None else max(_LEAST_CHUNK, min(budget, PREFILL_TOKENS))
        ready, spent = [], 0.0
        while self._filling and (budget is None or spent < budget):
            slot = next(iter(self._filling))
            chunk = next(self._filling[slot], None)
            if chunk is None:
                del self._filling[slot]
                self._placed[slot].is_filling = False
                self._batch = None
                ready.append(slot)
            elif not self.static:
                spent += chunk.tokens
            elif budget is not None:  # there launching takes the time: of a chunk two steps', of text less than one's
                spent += budget if chunk.all_layers else budget / 2
        return ready

    def _fill(self, slot: int, window: Window, conditions: Conditions) -> Iterator[FilledChunk]:
        """Write what a window begins with, and yield each chunk."""
        sequence = upload_array(window.sequence, self.device).long()
        # `step` begins with the last known step
        yield from self._filler.fill(slot, conditions, sequence[:, : window.known - 1].T)
        self.sequence[slot].zero_()  # not before: a static shape's idle slots are written to, too
        self.sequence[slot, :, : sequence.shape[1]] = sequence
        self.at[slot].fill_(window.known - 1)  # an assignment would copy from the host, and wait

    def take(self, slot: int, steps: int) -> HostCopy:
        """Copy the finished sequence int32 [codebooks, steps] of a slot, which may be cleared at once."""
        return HostCopy(self.sequence[slot, :, :steps])

    @property
    def reads_live_positions_alone(self) -> bool:
        """Whether numbers that a window has left in its slot's cache cannot reach the next one's."""
        return self._fused

    def clear(self, slot: int) -> None:
        """Empty a slot."""
        del self._placed[slot]
        self._batch = None

    @torch.inference_mode()
    def wipe(self, slot: int) -> None:
        """Zero an empty slot's cache, for numbers that are not finite: attention's weight of zero lets them through."""
        for keys, values in self.cache.layers:
            keys[slot :: self.slots], values[slot :: self.slots] = 0, 0
        for keys, values in self.cache.text:
            keys[slot], values[slot] = 0, 0

    def _ensure_capacity(self, positions: int, steps: int, text_states: int) -> None:
        """Extend cache and sequences for a longer window or prompt than any before, keeping their content."""
        if positions > self.cache.capacity:
            self._extend_cache(self.cache.layers, self.slots * self.width, self.decoder.ops.round_capacity(positions))
            self.decoder.reserve_positions(self.cache.capacity)
        if self.cache.text and text_states > self.cache.text[0][0].shape[2]:
            self._extend_cache(self.cache.text, self.slots, -(-text_states // TEXT_CAPACITY) * TEXT_CAPACITY)
        if steps >= self.sequence.shape[2]:
            self._drop_graphs()
            wider = torch.zeros(*self.sequence.shape[:2], steps + 1, dtype=torch.int64, device=self.device)
            wider[..., : self.sequence.shape[2]] = self.sequence
            self.sequence = wider

    def _extend_cache(self, layers: list[LayerCache], rows: int, capacity: int) -> None:
        """Replace caches by longer ones with the same content, layer by layer, so that little memory is held twice."""
        spec = self.decoder.spec
        self._drop_graphs()
        for index, shorter in enumerate(layers):
            longer = self.decoder.ops.allocate_cache(rows, spec.heads, capacity, spec.head_dim)
            for source, target in zip(shorter, longer, strict=True):
                target.flatten(2)[..., : source[0, 0].numel()] = source.flatten(2)
            layers[index] = longer

    def _drop_graphs(self) -> None:
        """Drop captured steps before a tensor that they work on is replaced."""
        if self._graphs is not None:
            self._graphs.clear()

    # ------------------------------------------------------------ the step

    @torch.inference_mode()
    def step(self, count: int = 1) -> None:
        """Move every placed slot by `count` steps. No slot may be moved beyond its last step."""
        if len(self._ahead) == _RUNS_AHEAD:
            self._ahead.popleft().synchronize()
        batch = self._batch = self._batch or self._next_batch()
        tokens, params = batch.tokens, batch.params
        for _ in range(count):
            if self._graphs is None:
                self._run_step(batch, tokens.longest)
            elif self._fused:  # lengths and parameters are read on the device
                self._graphs.run((), partial(self._run_step, batch, tokens.longest))
            # attention reads whole blocks of the cache, so a graph serves all lengths of the same number of blocks
            else:
                longest = self.decoder.ops.round_capacity(tokens.longest)
                key = (longest, params.any_top_p, params.any_top_k)
                self._graphs.run(key, partial(self._run_step, batch, longest))
            tokens.longest += 1
            for placed in self._placed.values():
                if not placed.is_filling:
                    placed.step += 1
                    placed.has_stepped = True
        if (event := record_event(self.device)) is not None:
            self._ahead.append(event)

    def _run_step(self, batch: StepBatch, longest: int) -> None:
        """The part of a step that is captured: it changes nothing on the host, and reads only what is in the graph's
        key.
        """
        if self._fused:
            run_fused_step(self.decoder, batch, self.sequence, self.at, self.cache)
            return
        decoder, at = self.decoder, self.at[batch.slots]
        codes = self.sequence[batch.slots, :, at]  # [clips, codebooks]
        states = decoder.forward(decoder.embed(codes)[batch.clip], replace(batch.tokens, longest=longest), self.cache)
        self._sample_step(decoder.logits(states), batch, at + 1)
        self.at[batch.slots] += batch.advance
        batch.tokens.lengths.add_(batch.advance.to(torch.int32)[batch.clip])

    def _sample_step(self, logits: Tensor, batch: StepBatch, at: Tensor) -> None:
        """Sample the codes of step `at` [clips] that are not given."""
        given = self.sequence[batch.slots, :, at]
        kernel = self.decoder.ops.sampling_kernel
        if kernel is not None:
            codes = given.to(torch.int32)
            kernel(logits, batch.params.table, at.to(torch.int32), codes)
            self.sequence[batch.slots, :, at] = codes.long()
        else:
            sampled = sample_codes(logits, batch.params, at)
            self.sequence[batch.slots, :, at] = torch.where(given < 0, sampled, given)

    def _next_batch(self) -> StepBatch:
        batch = build_batch(self._placed, self.slots, self.width, self.static, bool(self.cache.text))
        return batch if self._batch_buffer is None else self._batch_buffer.upload(batch)
