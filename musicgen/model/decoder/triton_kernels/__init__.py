"""The decode step's kernels in Triton, which comes with CUDA builds of torch. Only `launch_operation` imports them.

With TRITON_INTERPRET=1 in the environment before Triton is imported they run on a CPU, slowly, for tests.
"""
