"""The training loop: AdamW, a warm-up and a cosine, clipped gradients, an average of the weights; it goes on where it
was stopped.

A step's clips are divided into parts of equal size, worked on by one thread each with products on a single core: on a
CPU that meets once a step and not at every product, which is faster, much more so on a busy machine. What a part
computes does not depend on the threads there are, so a training that was interrupted ends with the weights of one that
was not.
"""

import copy
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from musicgen.engine.sequence import full_pattern_name
from musicgen.model.checkpoint.resolve import Checkpoint
from musicgen.model.checkpoint.tensors import Tensors
from musicgen.model.load import pick_device, pick_dtype
from musicgen.model.text.tokenizer import load_tokenizer
from musicgen.training.align import align_heads as align_heads
from musicgen.training.batch import Batch
from musicgen.training.batch_loader import BatchLoader
from musicgen.training.clock import RunningClock
from musicgen.training.log import TrainingLog, plot_losses, read_log
from musicgen.training.network import Network
from musicgen.training.schedule import Schedule
from musicgen.training.state import Counters, load_state, save_state
from musicgen.training.ticks import tick_ids
from musicgen.training.tokens import TokenizedData

REPLICAS = 2
_LOGGED = 10  # steps a line of the log
_BETAS = (0.9, 0.95)

StepCallback = Callable[[Mapping[str, Any]], None]
ExportCallback = Callable[["Trainer"], None]


class Trainer:
    """A training of the checkpoint `start` on `tokens`, whose state is in `folder`; begins where an earlier one
    stopped.

    `export` is called now and then with the trainer, whose `average` is the network to use. With `align`, for a
    checkpoint of random weights, two heads of a melody model begin by looking at their own time
    (`musicgen.training.align`). Raises `UserError`: nothing to train on, or `folder` holds another training; ValueError
    for a checkpoint that cannot be trained here.
    """

    def __init__(
        self,
        start: Checkpoint,
        tokens: TokenizedData,
        schedule: Schedule,
        folder: Path,
        export: ExportCallback | None = None,
        on_step: StepCallback | None = None,
        align: bool = False,
    ):
        import json

        self.start, self.tokens, self.schedule, self.folder = start, tokens, schedule, folder
        self.pattern = schedule.pattern or full_pattern_name(start.spec)
        self.device = pick_device("auto")
        self.dtype = pick_dtype(schedule.dtype, self.device)
        text = json.loads((start.folder / "config.json").read_text(encoding="utf-8"))["text_encoder"]
        self.network = Network(start.spec, text)
        self.network.load(Tensors.open(start.folder))
        self.network.to(self.device).eval()  # nothing here drops activations; T5 would, by its config
        if schedule.text_encoder == "freeze":
            self.network.text_encoder.requires_grad_(False)
        tokenizer = load_tokenizer(start.folder, self.network.text_encoder.config)
        self.feed, self.valid = (self._make_loader(tokenizer, split) for split in ("train", "valid"))
        if align and self.feed is not None and start.spec.kind == "melody" and start.spec.heads > 1:
            align_heads(self.network, self.feed.prompts, len(tick_ids(tokenizer)), self.pattern, schedule.seed)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.parts = [self.network, *(_share_weights(self.network) for _ in range(REPLICAS - 1))]
        self.names = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        decayed = [p for p in self.names.values() if p.ndim > 1]
        others = [p for p in self.names.values() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=schedule.learning_rate,
            betas=_BETAS,
            fused=True,
        )
        counts = schedule.codebook_weights or (1.0,) * start.spec.codebooks
        if len(counts) != start.spec.codebooks:
            raise ValueError(
                f"training.codebook_weights has {len(counts)} numbers for {start.spec.codebooks} codebooks; give "
                "one for each, or none"
            )
        self.shares = torch.tensor(counts, device=self.device) / sum(counts)
        self.counters = Counters()
        self.last: dict[str, Any] = {}  # the last line of the log that has a validation, for the card
        self._export, self._on_step = export, on_step
        self._about = {"start": start.identity, "pattern": self.pattern, "seed": schedule.seed}
        self._restore()

    @property
    def done(self) -> bool:
        """Whether its steps or hours are over."""
        return self.schedule.progress(self.counters.step, self.counters.seconds) >= 1

    def run(self, until: int | None = None) -> Counters:
        """Train to the end, or to the step `until`. Keeps its state, exports, and returns where it is."""
        folder, counters = self.folder, self.counters
        folder.mkdir(parents=True, exist_ok=True)
        log = TrainingLog(folder / "log.jsonl", counters.step)
        self.last = next((line for line in reversed(read_log(log.path)) if "valid" in line), {})
        threads = torch.get_num_threads()
        saved = exported = counters.seconds
        try:
            with (
                RunningClock(counters.seconds) as clock,
                ThreadPoolExecutor(REPLICAS, initializer=torch.set_num_threads, initargs=(1,)) as pool,
            ):
                torch.set_num_threads(1)
                began = time.monotonic(), counters.frames, counters.step
                while not self.done and (until is None or counters.step < until):
                    losses = self._step(pool)
                    counters.seconds = clock.seconds
                    final = self.done or counters.step == until
                    validate = counters.step % self.schedule.valid_steps == 0 or final
                    if counters.step % _LOGGED == 0 or validate:
                        line = self._log_line(losses, began) | (self._validate(pool) if validate else {})
                        began = time.monotonic(), counters.frames, counters.step
                        if "valid" in line:
                            self.last = line
                        log.append(line)
                        if self._on_step is not None:
                            self._on_step(line)
                    if final or counters.seconds - saved > self.schedule.checkpoint_s:
                        self._save()
                        saved = counters.seconds
                    if final or counters.seconds - exported > self.schedule.export_s:
                        self.export()
                        exported = counters.seconds
        finally:
            torch.set_num_threads(threads)
        return counters

    def export(self) -> None:
        """Draw the losses, and hand the average of the weights to `export`."""
        plot_losses(read_log(self.folder / "log.jsonl"), self.folder / "loss.png")
        if self._export is not None:
            self._export(self)

    def _make_loader(self, tokenizer: Any, split: str) -> BatchLoader | None:
        numbers = self.tokens.split(split)
        if not numbers and split != "train":
            return None
        return BatchLoader(self.tokens, numbers, tokenizer, self.start.spec, self.pattern, self.schedule)

    def _step(self, pool: ThreadPoolExecutor) -> Tensor:
        """One step. Returns each codebook's loss, float32 [codebooks]."""
        assert self.feed is not None
        counters, schedule = self.counters, self.schedule
        batches, clips = self.feed.batches(counters.step, counters.seen, REPLICAS)
        work = zip(self.parts, batches, strict=True)
        if self.device.type == "cpu":
            losses = [
                future.result()
                for future in [pool.submit(self._accumulate_gradients, network, batch) for network, batch in work]
            ]
        else:
            losses = [self._accumulate_gradients(network, batch) for network, batch in work]
        self._sum_gradients()
        torch.nn.utils.clip_grad_norm_(list(self.names.values()), schedule.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.rate(counters.step, counters.seconds)
        self.optimizer.step()
        for network in self.parts:
            network.zero_grad(set_to_none=True)
        with torch.no_grad():
            average: list[Tensor] = [p for name, p in self.average.named_parameters() if name in self.names]
            torch._foreach_lerp_(average, [*self.names.values()], 1 - schedule.averaging(counters.step))
        counters.step += 1
        counters.seen += clips
        counters.frames += sum(batch.frames for batch in batches)
        return torch.stack(losses).mean(0)

    def _accumulate_gradients(self, network: Network, batch: Batch) -> Tensor:
        with torch.enable_grad():
            with self._autocast():
                loss, each = network(batch.to(self.device), self.shares)
            (loss / REPLICAS).backward()
        return each.detach()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _sum_gradients(self) -> None:
        """Add the parts' gradients to the first's, in order."""
        for network in self.parts[1:]:
            for mine, other in zip(self.network.parameters(), network.parameters(), strict=True):
                if other.grad is not None:
                    mine.grad = other.grad if mine.grad is None else mine.grad.add_(other.grad)

    @torch.no_grad()
    def _validate(self, pool: ThreadPoolExecutor) -> dict[str, float]:
        """The average's loss on the validation clips: as they are, without their melody, without either condition."""
        if self.valid is None:
            return {}
        found = {}
        for name, kept in (
            ("valid", {}),
            ("valid_text", {"melody": False}),
            ("valid_none", {"melody": False, "text": False}),
        ):
            batches = self.valid.validation_batches(self.schedule.valid_clips, **kept)
            losses = list((pool.map if self.device.type == "cpu" else map)(self._validation_loss, batches))
            weights = [len(batch.inputs) for batch in batches]
            found[name] = sum(loss * weight for loss, weight in zip(losses, weights, strict=True)) / sum(weights)
        return found

    def _validation_loss(self, batch: Batch) -> float:
        with torch.no_grad(), self._autocast():  # of a thread's own
            return float(self.average(batch.to(self.device))[0])

    def _log_line(self, losses: Tensor, began: tuple[float, int, int]) -> dict[str, Any]:
        counters, schedule = self.counters, self.schedule
        seconds = max(1e-9, time.monotonic() - began[0])
        left = (
            (schedule.steps - counters.step) * seconds / max(1, counters.step - began[2])
            if schedule.steps is not None
            else 3600 * (schedule.hours or 0) - counters.seconds
        )
        return {
            "step": counters.step,
            "loss": round(float(losses.mean()), 5),
            "each": [round(float(loss), 4) for loss in losses],
            "rate": schedule.rate(counters.step, counters.seconds),
            "frames": counters.frames,
            "seconds": round(counters.seconds, 1),
            "frames_per_s": round((counters.frames - began[1]) / seconds, 1),
            "progress": schedule.progress(counters.step, counters.seconds),
            "left_s": round(left, 1),
            "epochs": round(counters.seen / len(self.feed or ()), 3),
        }

    def _save(self) -> None:
        tensors = {f"weights.{name}": p.detach() for name, p in self.names.items()}
        tensors |= {f"average.{name}": p for name, p in self.average.named_parameters() if name in self.names}
        for name, p in self.names.items():
            tensors |= {f"{moment}.{name}": self.optimizer.state[p][moment] for moment in ("exp_avg", "exp_avg_sq")}
        save_state(self.folder / "state", tensors, self.counters, self._about)

    @torch.no_grad()
    def _restore(self) -> None:
        found = load_state(self.folder / "state", self._about)
        if found is None:
            return
        tensors, self.counters = found
        average = dict(self.average.named_parameters())
        for name, p in self.names.items():
            p.copy_(tensors[f"weights.{name}"])
            average[name].copy_(tensors[f"average.{name}"])
            self.optimizer.state[p] = {
                "step": torch.tensor(float(self.counters.step), device=self.device),
                "exp_avg": tensors[f"exp_avg.{name}"].to(self.device),
                "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(self.device),
            }


def _share_weights(network: Network) -> Network:
    """A copy with gradients of its own that shares the weights."""
    other = copy.deepcopy(network)
    for mine, theirs in zip(network.parameters(), other.parameters(), strict=True):
        theirs.data = mine.data
    return other


def cores() -> int:
    """How many there are for us."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
