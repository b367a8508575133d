"""Trains a checkpoint: AdamW, warm-up and cosine, clipped gradients, an average of the weights, resumable state.

Results do not depend on the number of threads (`musicgen.training.replicas`), so a training that was interrupted ends
with the same weights as one that was not.
"""

import copy
import json
import time
from collections.abc import Callable
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
from musicgen.training.align import align_heads
from musicgen.training.batch_loader import BatchLoader
from musicgen.training.clock import RunningClock
from musicgen.training.log import TrainingLog, plot_losses, read_log
from musicgen.training.network import Network
from musicgen.training.replicas import Replicas
from musicgen.training.schedule import Schedule
from musicgen.training.state import Counters, load_state, save_state
from musicgen.training.ticks import tick_ids
from musicgen.training.tokens import TokenizedData
from musicgen.training.validation import measure_validation_losses
from musicgen.value_types import JsonObject

REPLICAS = 2
_STEPS_PER_LINE = 10  # of the log
_BETAS = (0.9, 0.95)

StepCallback = Callable[[JsonObject], None]
ExportCallback = Callable[["Trainer"], None]


class Trainer:
    """Trains the checkpoint `start` on `tokens`, with its state in `folder`, from which it resumes.

    `export` is called at intervals with the trainer, whose `average` is the network to use. `align` is for checkpoints
    of random weights: two heads of a melody model are set to attend to their own time (`musicgen.training.align`).
    Raises `UserError` if there is nothing to train on or `folder` holds another training, and ValueError for a
    checkpoint that cannot be trained here.
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
        self.start, self.tokens, self.schedule, self.folder = start, tokens, schedule, folder
        self.pattern = schedule.pattern or full_pattern_name(start.spec)
        self.device = pick_device("auto")
        self.dtype = pick_dtype(schedule.dtype, self.device)
        text = json.loads((start.folder / "config.json").read_text(encoding="utf-8"))["text_encoder"]
        self.network = Network(start.spec, text)
        self.network.load(Tensors.open(start.folder))
        self.network.to(self.device).eval()  # because T5's config has a dropout, which is not wanted
        if schedule.text_encoder == "freeze":
            self.network.text_encoder.requires_grad_(False)
        tokenizer = load_tokenizer(start.folder, self.network.text_encoder.config)
        self.train_loader, self.validation_loader = (
            self._make_loader(tokenizer, split) for split in ("train", "valid")
        )
        if align and self.train_loader is not None and start.spec.kind == "melody" and start.spec.heads > 1:
            align_heads(self.network, self.train_loader.prompts, len(tick_ids(tokenizer)), self.pattern, schedule.seed)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.replicas = Replicas(self.network, REPLICAS)
        self.trained_parameters = {
            name: parameter for name, parameter in self.network.named_parameters() if parameter.requires_grad
        }
        decayed = [parameter for parameter in self.trained_parameters.values() if parameter.ndim > 1]
        others = [parameter for parameter in self.trained_parameters.values() if parameter.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=schedule.learning_rate,
            betas=_BETAS,
            fused=True,
        )
        codebook_weights = schedule.codebook_weights or (1.0,) * start.spec.codebooks
        if len(codebook_weights) != start.spec.codebooks:
            raise ValueError(
                f"training.codebook_weights has {len(codebook_weights)} numbers for {start.spec.codebooks} codebooks; "
                "give one for each, or none"
            )
        self.codebook_shares = torch.tensor(codebook_weights, device=self.device) / sum(codebook_weights)
        self.counters = Counters()
        self._export, self._on_step = export, on_step
        self._about = {"start": start.identity, "pattern": self.pattern, "seed": schedule.seed}
        self._restore()

    @property
    def done(self) -> bool:
        """Return whether all steps or hours are finished."""
        return self.schedule.progress(self.counters.step, self.counters.seconds) >= 1

    def run(self, until: int | None = None) -> Counters:
        """Train to the end, or to the step `until`, with saved states and exports. Returns the counters."""
        folder, counters = self.folder, self.counters
        folder.mkdir(parents=True, exist_ok=True)
        log = TrainingLog(folder / "log.jsonl", counters.step)
        threads = torch.get_num_threads()
        saved = exported = counters.seconds
        try:
            with (
                RunningClock(counters.seconds) as clock,
                ThreadPoolExecutor(REPLICAS, initializer=torch.set_num_threads, initargs=(1,)) as pool,
            ):
                torch.set_num_threads(1)
                interval_start = time.monotonic(), counters.frames, counters.step
                while not self.done and (until is None or counters.step < until):
                    losses = self._step(pool)
                    counters.seconds = clock.seconds
                    final = self.done or counters.step == until
                    validate = counters.step % self.schedule.valid_steps == 0 or final
                    if counters.step % _STEPS_PER_LINE == 0 or validate:
                        line = self._log_line(losses, interval_start) | (self._validate(pool) if validate else {})
                        interval_start = time.monotonic(), counters.frames, counters.step
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
        """Plot the losses, and call `export`."""
        plot_losses(read_log(self.folder / "log.jsonl"), self.folder / "loss.png")
        if self._export is not None:
            self._export(self)

    def _make_loader(self, tokenizer: Any, split: str) -> BatchLoader | None:
        numbers = self.tokens.split(split)
        if not numbers and split != "train":
            return None
        return BatchLoader(self.tokens, numbers, tokenizer, self.start.spec, self.pattern, self.schedule)

    def _step(self, pool: ThreadPoolExecutor) -> Tensor:
        """Train one step. Returns each codebook's loss, float32 [codebooks]."""
        assert self.train_loader is not None
        counters, schedule = self.counters, self.schedule
        batches, clips = self.train_loader.batches(counters.step, counters.seen, REPLICAS)
        losses = self.replicas.compute_gradients(batches, self.codebook_shares, self._autocast, pool)
        torch.nn.utils.clip_grad_norm_(list(self.trained_parameters.values()), schedule.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.learning_rate_at(counters.step, counters.seconds)
        self.optimizer.step()
        self.replicas.clear_gradients()
        with torch.no_grad():
            average: list[Tensor] = [
                parameter for name, parameter in self.average.named_parameters() if name in self.trained_parameters
            ]
            torch._foreach_lerp_(
                average, [*self.trained_parameters.values()], 1 - schedule.averaging_factor(counters.step)
            )
        counters.step += 1
        counters.seen += clips
        counters.frames += sum(batch.frames for batch in batches)
        return losses

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _validate(self, pool: ThreadPoolExecutor) -> dict[str, float]:
        """Measure the validation losses of the average; none without validation clips."""
        if self.validation_loader is None:
            return {}
        clips = self.schedule.valid_clips
        return measure_validation_losses(self.average, self.validation_loader, clips, self.device, self._autocast, pool)

    def _log_line(self, losses: Tensor, interval_start: tuple[float, int, int]) -> JsonObject:
        counters, schedule = self.counters, self.schedule
        seconds = max(1e-9, time.monotonic() - interval_start[0])
        left_s = (
            (schedule.steps - counters.step) * seconds / max(1, counters.step - interval_start[2])
            if schedule.steps is not None
            else 3600 * (schedule.hours or 0) - counters.seconds
        )
        return {
            "step": counters.step,
            "loss": round(float(losses.mean()), 5),
            "each": [round(float(loss), 4) for loss in losses],
            "rate": schedule.learning_rate_at(counters.step, counters.seconds),
            "frames": counters.frames,
            "seconds": round(counters.seconds, 1),
            "frames_per_s": round((counters.frames - interval_start[1]) / seconds, 1),
            "progress": schedule.progress(counters.step, counters.seconds),
            "left_s": round(max(0.0, left_s), 1),
            "epochs": round(counters.seen / len(self.train_loader or ()), 3),
        }

    def _save(self) -> None:
        tensors = {f"weights.{name}": parameter.detach() for name, parameter in self.trained_parameters.items()}
        tensors |= {
            f"average.{name}": parameter
            for name, parameter in self.average.named_parameters()
            if name in self.trained_parameters
        }
        for name, parameter in self.trained_parameters.items():
            tensors |= {
                f"{moment}.{name}": self.optimizer.state[parameter][moment] for moment in ("exp_avg", "exp_avg_sq")
            }
        save_state(self.folder / "state", tensors, self.counters, self._about)

    @torch.no_grad()
    def _restore(self) -> None:
        saved = load_state(self.folder / "state", self._about)
        if saved is None:
            return
        tensors, self.counters = saved
        average = dict(self.average.named_parameters())
        for name, parameter in self.trained_parameters.items():
            parameter.copy_(tensors[f"weights.{name}"])
            average[name].copy_(tensors[f"average.{name}"])
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(self.counters.step), device=self.device),
                "exp_avg": tensors[f"exp_avg.{name}"].to(self.device),
                "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(self.device),
            }
