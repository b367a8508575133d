"""The slots on the device: sequences, positions and cache, and the step that moves every live slot by one.

Slot s has `width` rows of the cache, s, slots + s, ...: one per branch. Which slots live changes only at events (a clip
ends, another begins), and then the step's plan is made: which tokens it runs, in which order, and what each clip samples
by. A step itself is a fixed run of device operations, without a loop over rows and without reading anything back: on CUDA
it is captured whole, sampling included (`musicgen/model/graphs.py`).
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from musicgen.conditioning.conditions import Conditions
from musicgen.engine.sampling import SAMPLING_PARAMS_DTYPE, SamplingParams, sample_codes
from musicgen.engine.sequence import Window
from musicgen.model.decoder.cpu_ops import CpuOps
from musicgen.model.decoder.cuda_graphs import StepGraphs
from musicgen.model.decoder.decoder import Decoder, KVCache, TokenBatch
from musicgen.model.decoder.torch_ops import TorchOps
from musicgen.request import Request

PREFILL_TOKENS = 128  # tokens at a time of a prefix or a forced context
TEXT_CAPACITY = 64  # text states to begin with


@dataclass(slots=True, eq=False)
class StepBatch:
    """What the coming steps run. Tokens with text come first, so that the others skip cross-attention as one block."""

    slots: Tensor  # int64 [clips]
    clip: Tensor  # int64 [tokens]: which of the clips
    tokens: TokenBatch  # lengths are moved along in place
    choices: SamplingParams
    moving: Tensor  # int64 [clips]: 1, or 0 for a slot that only fills a static shape

    def tensors(self) -> list[Tensor]:
        """All of them. With static shapes they have the same shapes in every plan of a stepper."""
        tokens = self.tokens
        return [
            self.slots,
            self.clip,
            tokens.rows,
            tokens.lengths,
            tokens.text_lengths,
            *self.choices.columns.values(),
            self.moving,
        ]

    def copy_into(self, before: "StepBatch") -> "StepBatch":
        """The same plan in the tensors of another, which captured steps read."""
        for theirs, mine in zip(before.tensors(), self.tensors(), strict=True):
            theirs.copy_(mine)
        tokens, choices = (
            replace(before.tokens, longest=self.tokens.longest),
            replace(self.choices, columns=before.choices.columns),
        )
        return replace(before, tokens=tokens, choices=choices)


@dataclass(slots=True, eq=False)
class _Slot:
    """What is the same for all steps of a window."""

    offset: int  # positions in front of the start token
    step: int  # when it was placed
    texts: list[int]  # text states by branch
    choice: np.void  # of SAMPLING_PARAMS_DTYPE, rows filled in by the plan


class Stepper:
    """The state of `slots` slots with up to `width` branches. Placing and clearing are events; `step` is the step."""

    def __init__(self, decoder: Decoder, slots: int, width: int, capacity: int):
        self.decoder, self.slots, self.width = decoder, slots, width
        spec = decoder.spec
        self.device = decoder.device
        self.static = decoder.ops.static_shapes
        self.cache: KVCache = decoder.allocate_cache(slots * width, capacity, slots, TEXT_CAPACITY)
        decoder.reserve_positions(self.cache.capacity)
        self.sequence = torch.zeros(slots, spec.codebooks, capacity + 1, dtype=torch.int64, device=self.device)
        self.at = torch.zeros(slots, dtype=torch.int64, device=self.device)  # the step whose codes each slot reads next
        self._placed: dict[int, _Slot] = {}
        self._longest = 0
        self._plan: StepBatch | None = None
        self._buffers: StepBatch | None = None  # where captured steps find their plan
        ops = decoder.ops
        self._graphs = (
            StepGraphs(ops.capture(), ops.disable_capture)
            if isinstance(ops, TorchOps) and ops.capture is not None
            else None
        )

    # ------------------------------------------------------------ events

    @torch.inference_mode()
    def place(self, slot: int, window: Window, conditions: Conditions, request: Request) -> None:
        """Put a window into a slot: text, prefix and known steps go into the cache, in as many tokens as they have."""
        spec, offset, length = self.decoder.spec, conditions.prefix_length, window.sequence.shape[1]
        texts = [0 if b.cross is None else b.cross.shape[0] for b in conditions.branches]
        if any(texts[1:]):
            raise ValueError("only a window's first branch attends to text")
        self._ensure_capacity(offset + length, length, max(texts))
        self.sequence[slot].zero_()
        self.sequence[slot, :, :length] = torch.from_numpy(window.sequence).to(self.device)
        known = self.sequence[slot, :, : window.known - 1].T  # the last known step is the first one that `step` runs
        embedded = self.decoder.embed(known) if window.known > 1 else torch.empty(0, spec.hidden, device=self.device)
        for branch, what in enumerate(conditions.branches):
            row = branch * self.slots + slot
            if branch == 0:
                self.decoder.write_text_cache(self.cache, slot, what.cross)
            prefix = [] if what.prefix is None else [what.prefix.to(self.device, torch.float32)]
            self._prefill(torch.cat([*prefix, embedded]), row, texts[branch])
        self.at[slot] = window.known - 1
        self._placed[slot] = _Slot(offset, window.known - 1, texts, _sampling_params(request, conditions, window.index))
        self._plan = None

    def take(self, slot: int, steps: int) -> np.ndarray:
        """The finished sequence int32 [codebooks, steps] of a slot."""
        return self.sequence[slot, :, :steps].to(torch.int32).cpu().numpy()

    @torch.inference_mode()
    def clear(self, slot: int, wipe: bool = False) -> None:
        """Empty a slot. `wipe`: its cache may hold numbers that are not finite, which even a weight of zero lets through."""
        del self._placed[slot]
        self._plan = None
        if wipe:
            for keys, values in self.cache.layers:
                keys[slot :: self.slots], values[slot :: self.slots] = 0, 0
            for keys, values in self.cache.text:
                keys[slot], values[slot] = 0, 0

    def _prefill(self, x: Tensor, row: int, text: int) -> None:
        """Run embeddings x [tokens, hidden] as the first positions of a row, for the sake of the cache alone."""
        for start in range(0, x.shape[0], PREFILL_TOKENS):
            part = x[start : start + PREFILL_TOKENS]
            lengths = torch.arange(start + 1, start + part.shape[0] + 1, dtype=torch.int32, device=self.device)
            if (
                self.static and part.shape[0] < PREFILL_TOKENS
            ):  # the last token again and again: it writes the same to the same place
                fill = PREFILL_TOKENS - part.shape[0]
                part, lengths = (
                    torch.cat([part, part[-1:].expand(fill, -1)]),
                    torch.cat([lengths, lengths[-1:].expand(fill)]),
                )
            count = part.shape[0]
            rows = torch.full((count,), row, dtype=torch.int32, device=self.device)
            crossed = count if text else 0
            tokens = TokenBatch(
                rows,
                lengths,
                crossed,
                torch.full((crossed,), text, dtype=torch.int32, device=self.device),
                start + count,
            )
            self.decoder.forward(part, tokens, self.cache)

    def _ensure_capacity(self, positions: int, steps: int, texts: int) -> None:
        """Make room for longer windows or prompts than any before; what is in the cache stays."""
        if positions > self.cache.capacity:
            self._extend_cache(self.cache.layers, self.slots * self.width, self.decoder.ops.round_capacity(positions))
            self.decoder.reserve_positions(self.cache.capacity)
        if self.cache.text and texts > self.cache.text[0][0].shape[2]:
            self._extend_cache(self.cache.text, self.slots, -(-texts // TEXT_CAPACITY) * TEXT_CAPACITY)
        if steps >= self.sequence.shape[2]:
            self._forget_graphs()
            wider = torch.zeros(*self.sequence.shape[:2], steps + 1, dtype=torch.int64, device=self.device)
            wider[..., : self.sequence.shape[2]] = self.sequence
            self.sequence = wider

    def _extend_cache(self, layers: list[tuple[Tensor, Tensor]], rows: int, capacity: int) -> None:
        """Longer caches with the same content: one layer after the other, so that hardly more than the new ones is held."""
        spec = self.decoder.spec
        self._forget_graphs()
        for i, before in enumerate(layers):
            after = self.decoder.ops.allocate_cache(rows, spec.heads, capacity, spec.head_dim)
            for a, b in zip(before, after, strict=True):
                b.flatten(2)[..., : a[0, 0].numel()] = a.flatten(2)
            layers[i] = after

    def _forget_graphs(self) -> None:
        """Before a tensor that the step works on is replaced."""
        if self._graphs is not None:
            self._graphs.clear()

    # ------------------------------------------------------------ the step

    @torch.inference_mode()
    def step(self, count: int = 1) -> None:
        """Move every placed slot by `count` steps. None may be beyond its last."""
        plan = self._plan = self._plan or self._next_batch()
        tokens, choices = plan.tokens, plan.choices
        for _ in range(count):
            if self._graphs is None:
                self._run_step(plan, tokens.longest)
            else:  # whole blocks of the cache, which is what an eager step reads
                blocks = self.decoder.ops.round_capacity(tokens.longest)
                self._graphs.run((blocks, choices.any_top_p, choices.any_top_k), partial(self._run_step, plan, blocks))
            tokens.longest += 1
            for slot in self._placed.values():
                slot.step += 1

    def _run_step(self, plan: StepBatch, longest: int) -> None:
        """What is captured: it changes nothing of the host's, and reads nothing of it that is not in the graph's key."""
        decoder, at = self.decoder, self.at[plan.slots]
        codes = self.sequence[plan.slots, :, at]  # [clips, codebooks]
        states = decoder.forward(decoder.embed(codes)[plan.clip], replace(plan.tokens, longest=longest), self.cache)
        self._sample_step(decoder.logits(states), plan, at + 1)
        self.at[plan.slots] += plan.moving
        plan.tokens.lengths.add_(plan.moving.to(torch.int32)[plan.clip])

    def _sample_step(self, logits: Tensor, plan: StepBatch, at: Tensor) -> None:
        """Fill the codes of step `at` [clips] that are to be drawn."""
        given = self.sequence[plan.slots, :, at]
        if isinstance(self.decoder.ops, CpuOps):
            drawn = given.to(torch.int32)
            self.decoder.ops.sample(logits, plan.choices.table, at.to(torch.int32), drawn)
            self.sequence[plan.slots, :, at] = drawn.long()
        else:
            drawn = sample_codes(logits, plan.choices, at)
            self.sequence[plan.slots, :, at] = torch.where(given < 0, drawn, given)

    def _next_batch(self) -> StepBatch:
        plan = self._build_batch()
        if self._graphs is None:
            return plan
        self._buffers = plan if self._buffers is None else plan.copy_into(self._buffers)
        return self._buffers

    def _build_batch(self) -> StepBatch:
        """Native: the live slots' branches alone. Static shapes: every row of every slot, idle ones with nothing to say."""
        placed = (
            {s: self._placed.get(s) for s in range(self.slots)} if self.static else dict(sorted(self._placed.items()))
        )
        slots = list(placed)
        clip, rows, lengths, texts = [], [], [], []
        for branch in range(self.width):
            for i, (slot, what) in enumerate(placed.items()):
                there = what is not None and branch < len(what.texts)
                if there or self.static:
                    clip.append(i)
                    rows.append(branch * self.slots + slot)
                    lengths.append(what.offset + what.step + 1 if what is not None and there else 1)
                    texts.append(what.texts[branch] if what is not None and there else 0)
        if self.static:
            crossed, order = (self.slots if self.cache.text else 0), list(range(len(rows)))
        else:
            crossed = sum(text > 0 for text in texts)
            order = sorted(range(len(rows)), key=lambda token: texts[token] == 0)
        place = {rows[token]: position for position, token in enumerate(order)}

        table = np.zeros(len(slots), SAMPLING_PARAMS_DTYPE)
        for i, (slot, what) in enumerate(placed.items()):
            if what is not None:
                table[i] = what.choice
                first, last = place[slot], place[(len(what.texts) - 1) * self.slots + slot]
                middle = place[self.slots + slot] if len(what.texts) == 3 else first
                table[i]["cond"], table[i]["other"], table[i]["null"] = first, middle, last

        def tensor(values: list[int], kind: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=kind, device=self.device)

        return StepBatch(
            slots=tensor(slots, torch.int64),
            clip=tensor([clip[token] for token in order], torch.int64),
            tokens=TokenBatch(
                tensor([rows[token] for token in order], torch.int32),
                tensor([lengths[token] for token in order], torch.int32),
                crossed,
                tensor([texts[token] for token in order[:crossed]], torch.int32),
                max(lengths, default=0),
            ),
            choices=SamplingParams.from_table(table, self.device),
            moving=tensor([int(what is not None) for what in placed.values()], torch.int64),
        )


def _sampling_params(request: Request, conditions: Conditions, window: int) -> np.void:
    choice = np.zeros(1, SAMPLING_PARAMS_DTYPE)
    assert request.seed is not None
    choice["scale"], choice["beta"] = conditions.scale, conditions.beta
    choice["temperature"], choice["top_p"], choice["top_k"] = request.temperature, request.top_p, request.top_k
    choice["window"], choice["seed"] = window, request.seed
    return choice[0]
