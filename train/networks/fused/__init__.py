"""The modules of `modules.py` in few passes over memory, in Triton: the same function, the same weights.

Importing what is in here needs Triton. `bottleneck` and `stem` are what a network calls; the other files hold a step of
theirs each, the kernels beside what launches them.

Activations are (B, T, H, W, C), channels last, in bfloat16 or float32; sums, statistics and gradients of weights are
float32. A convolution stores its raw output, before its norm, together with the sums that its norm needs; whoever reads
it applies the norm in passing, `raw * scale + shift`. Likewise backward: the gradient of a raw output is
`of_norm * gradient + of_raw * raw + constant`, three numbers a channel, and so is never stored either.
"""
