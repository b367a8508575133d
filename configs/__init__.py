"""Presets as data: models, example jobs and manifests.

`musicgen.presets` reads them, also from an installed package.
"""
