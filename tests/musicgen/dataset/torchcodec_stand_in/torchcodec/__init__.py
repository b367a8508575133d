"""A stand-in for torchcodec, which needs FFmpeg's libraries: the two classes that `datasets` imports, by soundfile."""
