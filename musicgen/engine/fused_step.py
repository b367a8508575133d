"""A decode step by Triton kernels: like `Stepper._run_step`, whose torch operations it is compared with in tests."""

from torch import Tensor

from musicgen.engine.sampling import SAMPLING_PARAMS_DTYPE
from musicgen.engine.step_batch import StepBatch
from musicgen.model.decoder import triton_step
from musicgen.model.decoder.decoder import Decoder, KVCache


def run_fused_step(decoder: Decoder, batch: StepBatch, sequence: Tensor, at: Tensor, cache: KVCache) -> None:
    """Move the clips of `batch` by one step.

    sequence int64 [slots, codebooks, steps] and at int64 [slots] are changed in place. Whatever changes from step to
    step, sampling parameters included, is read from the device: one CUDA graph serves all steps.
    """
    tokens, columns = batch.tokens, batch.params.columns
    x = triton_step.embed_step(
        sequence, at, batch.slots, batch.clip, tokens.lengths, decoder.embeddings, decoder.position_table
    )
    logits = decoder.logits(decoder.run_layers(x, tokens, cache))
    params = (columns[name] for name in SAMPLING_PARAMS_DTYPE.names or ())
    triton_step.sample_step(logits, sequence, at, batch.slots, *params)
    triton_step.advance_step(at, batch.slots, batch.advance, tokens.lengths, batch.clip)
