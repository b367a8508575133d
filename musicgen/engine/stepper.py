"""The slots on the device: sequences, positions and cache, and the step that moves every live slot by one.

Slot s has `width` rows of the cache, s, slots + s, ...: one per guidance branch. Which slots are live changes only at
events (a clip ends, another begins). Then the step's batch is built: which tokens it runs, in which order, and each
clip's sampling parameters. A step itself is a fixed run of device operations, without a loop over rows and without
reading anything back. On CUDA it is captured whole, sampling included (`musicgen/model/decoder/cuda_graphs.py`).
"""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from musicgen.conditioning.conditions import Branch, Conditions
from musicgen.engine.fused_step import run_fused_step
from musicgen.engine.prefill import PREFILL_TOKENS, SharedPrefix, fill_row, fill_rows
from musicgen.engine.sampling import sample_codes
from musicgen.engine.sequence import Window
from musicgen.engine.step_batch import BatchBuffer, PlacedWindow, StepBatch, build_batch, sampling_params
from musicgen.model.decoder.cuda_graphs import StepGraphs
from musicgen.model.decoder.decoder import Decoder, KVCache
from musicgen.model.decoder.ops import LayerCache
from musicgen.model.decoder.triton_ops import TritonOps
from musicgen.request import Request

TEXT_CAPACITY = 64  # text states that are allocated to begin with


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
        self._shared: SharedPrefix | None = None
        self._placed: dict[int, PlacedWindow] = {}
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

    @torch.inference_mode()
    def place(self, slot: int, window: Window, conditions: Conditions, request: Request) -> None:
        """Put a window into a slot: its text, prefix and known steps are written to the cache."""
        spec, offset, length = self.decoder.spec, conditions.prefix_length, window.sequence.shape[1]
        text_lengths = [0 if branch.cross is None else branch.cross.shape[0] for branch in conditions.branches]
        if any(text_lengths[1:]):
            raise ValueError("only a window's first branch attends to text")
        self._ensure_capacity(offset + length, length, max(text_lengths))
        self.sequence[slot].zero_()
        self.sequence[slot, :, :length] = torch.from_numpy(window.sequence).to(self.device)
        known = self.sequence[slot, :, : window.known - 1].T  # `step` begins with the last known step
        embedded = self.decoder.embed(known) if window.known > 1 else torch.empty(0, spec.hidden, device=self.device)
        self.decoder.write_text_cache(self.cache, slot, conditions.branches[0].cross)
        self._fill_known(slot, conditions, embedded, text_lengths[0])
        self.at[slot] = window.known - 1
        params = sampling_params(request, conditions, window.index)
        self._placed[slot] = PlacedWindow(offset, window.known - 1, text_lengths, params)
        self._batch = None

    def take(self, slot: int, steps: int) -> NDArray[np.int32]:
        """The finished sequence int32 [codebooks, steps] of a slot."""
        sequence: NDArray[np.int32] = self.sequence[slot, :, :steps].to(torch.int32).cpu().numpy()
        return sequence

    @torch.inference_mode()
    def clear(self, slot: int, wipe: bool = False) -> None:
        """Empty a slot.

        `wipe` zeros its cache, for numbers that are not finite: attention's weight of zero lets them through.
        """
        del self._placed[slot]
        self._batch = None
        if wipe:
            for keys, values in self.cache.layers:
                keys[slot :: self.slots], values[slot :: self.slots] = 0, 0
            for keys, values in self.cache.text:
                keys[slot], values[slot] = 0, 0

    def _fill_known(self, slot: int, conditions: Conditions, known: Tensor, text_length: int) -> None:
        """Write what a slot's rows begin with: prefixes, and the embeddings of known codes [positions, hidden]."""
        branches, prefix_length = conditions.branches, conditions.prefix_length
        shared = None if branches[-1].shared is None else self._share_prefix(branches[-1].shared)
        last = (len(branches) - 1) * self.slots + slot
        if shared is not None and (not self._fused or not len(known)):
            shared.copy_to(self.cache, last, prefix_length)
            if not len(known):
                branches = branches[:-1]
        embedded = (torch.cat([*self._embed_prefix(branch), known]) for branch in branches)
        if self._fused:
            if branches:
                fill_rows(self.decoder, self.cache, torch.stack(list(embedded)), slot, self.slots, text_length)
            return
        for index, x in enumerate(embedded):  # one at a time, so that only one of them takes memory
            row = index * self.slots + slot
            start = prefix_length // PREFILL_TOKENS * PREFILL_TOKENS if shared is not None and row == last else 0
            fill_row(self.decoder, self.cache, x, row, 0 if index else text_length, start)

    def _embed_prefix(self, branch: Branch) -> list[Tensor]:
        return [] if branch.prefix is None else [branch.prefix.to(self.device, torch.float32)]

    def _share_prefix(self, whole: Tensor) -> SharedPrefix:
        if self._shared is None or self._shared.whole is not whole:
            self._shared = SharedPrefix(self.decoder, whole)
        return self._shared

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
                placed.step += 1

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
