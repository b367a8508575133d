"""Turns a request's prompt, melody, style excerpt and continuation into the decoder's inputs.

A file passes these stages: `musicgen.audio.fetch` (bounded bytes, hash) -> `musicgen.audio.read` (bounded seconds, mono
or stereo at the sample rate needed) -> `chroma`, `style` or the codec -> `Conditioner.prepare`, which the engine calls
when it admits a request.
"""
