"""Loads a checkpoint onto a device: decoder, text encoder, codec."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from musicgen.errors import ModelError
from musicgen.model.checkpoint.linear import load_linear
from musicgen.model.checkpoint.resolve import Checkpoint, resolve_checkpoint
from musicgen.model.checkpoint.tensors import Tensors
from musicgen.model.codec.codec import Codec
from musicgen.model.codec.encodec import EnCodec
from musicgen.model.codec.spectral import SpectralCodec
from musicgen.model.cuda_settings import make_cuda_deterministic
from musicgen.model.decoder.cpu_ops import load_library
from musicgen.model.decoder.decoder import Decoder
from musicgen.model.processor import processor_flags
from musicgen.model.spec import ModelSpec
from musicgen.model.text.encoder import TextEncoder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded checkpoint. The decoder computes in `dtype`, text encoder and codec always in float32."""

    checkpoint: Checkpoint
    device: torch.device
    dtype: torch.dtype
    decoder: Decoder
    text: TextEncoder
    codec: Codec
    tensors: Tensors  # of the checkpoint, for conditioners with weights of their own
    chroma_table: Tensor | None = None  # a pitch class's embedding, float32 [chroma_bins, hidden]: melody checkpoints

    @property
    def spec(self) -> ModelSpec:
        """The checkpoint's sizes."""
        return self.checkpoint.spec


def load_model(checkpoint: Checkpoint | str | Path, device: str = "auto", dtype: str = "auto") -> Model:
    """Load a checkpoint. The decoder is built weight by weight from the mapped files; no second copy of it is ever
    held.

    `device`: "auto" takes CUDA where there is one, else the CPU; or a torch name such as "cuda:1". `dtype`: "auto"
    takes bfloat16 where the decoder is faster in it (`pick_decoder_dtype`), else float32; or one of `DTYPES`. Raises
    `ModelError`.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = resolve_checkpoint(checkpoint)
    torch_device = pick_device(device)
    torch_dtype = pick_decoder_dtype(dtype, torch_device)
    if torch_device.type == "cuda":
        make_cuda_deterministic()
    folder, spec = checkpoint.folder, checkpoint.spec
    tensors = Tensors.open(folder)
    with torch.random.fork_rng(devices=[]):  # building modules draws initial weights: keep the caller's random state
        return Model(
            checkpoint=checkpoint,
            device=torch_device,
            dtype=torch_dtype,
            decoder=Decoder.from_state_dict(
                spec, tensors.view("decoder.", torch_device, torch_dtype), torch_device, torch_dtype
            ),
            text=TextEncoder.load(folder, spec, tensors, torch_device),
            codec=_load_codec(folder, spec, tensors, torch_device),
            tensors=tensors,
            chroma_table=_load_chroma_table(spec, tensors, torch_device) if spec.kind == "melody" else None,
        )


def _load_chroma_table(spec: ModelSpec, tensors: Tensors, device: torch.device) -> Tensor:
    """Load the embeddings of the pitch classes, [chroma_bins, hidden].

    A linear layer maps a one-hot vector to a column of its weight (plus bias), so the columns are a table. Without a
    projection the one-hot vectors themselves are the embeddings.
    """
    if not spec.chroma_projection:
        return torch.eye(spec.hidden, device=device)
    projection = load_linear(tensors, "audio_enc_to_dec_proj.", spec.chroma_bins, spec.hidden, device)
    return (projection.weight.T + projection.bias).detach().contiguous()


def load_codec(checkpoint: Checkpoint | str | Path, device: str = "auto") -> Codec:
    """Load a checkpoint's codec alone, for `musicgen encode` and `decode`. Raises `ModelError`."""
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = resolve_checkpoint(checkpoint)
    torch_device = pick_device(device)
    if torch_device.type == "cuda":
        make_cuda_deterministic()
    with torch.random.fork_rng(devices=[]):
        return _load_codec(checkpoint.folder, checkpoint.spec, Tensors.open(checkpoint.folder), torch_device)


def _load_codec(folder: Path, spec: ModelSpec, tensors: Tensors, device: torch.device) -> Codec:
    """Load the codec that `config.json` names; the spectral codec computes on the CPU, whatever the device."""
    if spec.codec == "spectral_rvq":
        return SpectralCodec.load(folder, spec, tensors)
    return EnCodec.load(folder, spec, tensors, device)


def pick_device(name: str) -> torch.device:
    """Return the device that `name` means. Raises `ModelError` for one that this machine lacks."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"model.device {name!r} is no device; write auto, cpu, cuda or cuda:0") from None
    if device.type not in ("cpu", "cuda"):
        raise ModelError(f"model.device {name!r} is not supported; write auto, cpu, cuda or cuda:0")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ModelError(
            f"model.device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices; write auto or cpu"
        )
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype that `name` means for torch's operations on `device`; auto: bfloat16 where the device multiplies
    it, else float32. Raises `ModelError` for an unknown name.
    """
    if name != "auto":
        if name not in DTYPES:
            raise ModelError(f"model.dtype {name!r} is not known; write auto or one of {', '.join(DTYPES)}")
        return DTYPES[name]
    native = (
        torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else _cpu_multiplies_bfloat16()
    )
    return torch.bfloat16 if native else torch.float32


def pick_decoder_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the decoder's dtype on `device`; auto: bfloat16 also where our CPU kernels are faster in it, since they
    read half as much and multiply as fast, than in float32. Raises `ModelError` for an unknown name.
    """
    if name == "auto" and device.type == "cpu" and _kernels_prefer_bfloat16():
        return torch.bfloat16
    return pick_dtype(name, device)


def _cpu_multiplies_bfloat16() -> bool:
    """Whether the processor has bfloat16 products (AVX512-BF16, AMX, or ARM's BF16); elsewhere torch is slower in
    bfloat16 than in float32.
    """
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & processor_flags())


def _kernels_prefer_bfloat16() -> bool:
    return {"avx2", "fma"} <= processor_flags() and not isinstance(load_library(), str)
