"""Checks torch, and which device training would use."""

from pathlib import Path

from resact.cache.check import Check


def check_gpu() -> Check:
    """Check that torch works, and name the device that training would use."""
    from importlib.util import find_spec

    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("GPU", "bad", f"torch cannot be loaded: {error}", "pip install --force-reinstall torch")
    if not torch.cuda.is_available():
        if not Path("/dev/nvidia0").exists():
            return Check("GPU", "ok", "none: training runs on the CPU")
        lacking = "the driver does not work with it" if torch.version.cuda else "it is built for CPUs only"
        advice = "does nvidia-smi work? Install the CUDA build of torch for that driver: https://pytorch.org"
        return Check("GPU", "warning", f"there is one, but torch {torch.__version__} cannot use it: {lacking}", advice)
    try:
        devices = []
        for number in range(torch.cuda.device_count()):
            torch.ones(8, device=f"cuda:{number}").sum().item()
            free, total = torch.cuda.mem_get_info(number)
            devices.append(f"{torch.cuda.get_device_name(number)} ({free / 2**30:.0f} of {total / 2**30:.0f} GiB free)")
    except RuntimeError as error:
        words = str(error).partition("\n")[0]
        return Check(
            "GPU", "bad", f"it fails to compute: {words}", "does nvidia-smi work? Is another process using it all?"
        )
    if find_spec("triton") is None:
        return Check(
            "GPU", "warning", ", ".join(devices), "pip install triton: without it the fast kernels are not used"
        )
    return Check("GPU", "ok", ", ".join(devices))
