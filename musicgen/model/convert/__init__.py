"""Converts checkpoints from pickles to the published format (`musicgen convert`).

`conversion` runs in the caller's process and opens no pickle. It starts `child` in a subprocess without network, and
that one reads the pickles, tensors only, and writes safetensors.
"""
