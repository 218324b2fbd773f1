"""The modules of `modules.py` as Triton kernels and matrix products: the same function, the same weights.

Importing from here needs Triton. A network calls `bottleneck` and `conv1`; each other file holds one step of theirs,
with the kernels and the functions that launch them.

Activations are (B, T, H, W, C), channels last, in bfloat16 or float32; sums, statistics and gradients of weights are
float32. PyTorch's matrix products compute 1x1x1 convolutions. A convolution stores its raw output, before its norm; its
readers apply the norm on the fly, `raw * scale + shift`. The backward pass does the same: the gradient of a raw output
is `of_norm * gradient + of_raw * raw + constant`, three numbers per channel. It is stored only for a product.
"""
