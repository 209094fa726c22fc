"""What the machine is, and which kernels it has."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from pathlib import Path

import torch

from tests.gpu.findings import Finding, NotHere


def card(device: str, folder: Path) -> list[Finding]:
    """The device's name and memory."""
    told = [Finding("torch", str(torch.__version__))]
    if device == "cpu":
        return [*told, Finding("device", "the CPU")]
    if not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no CUDA device")
    about = torch.cuda.get_device_properties(device)
    memory = f"{about.total_memory / 2**30:.0f} GiB"
    return [*told, Finding("device", f"{about.name}, {memory}, CUDA {torch.version.cuda}", True)]


def kernels(device: str, folder: Path) -> list[Finding]:
    """FlashAttention and Liger, each against plain PyTorch, where they are installed."""
    found: list[Finding] = []
    if device == "cpu":
        raise NotHere("they are for CUDA")
    for module, compare in (("flash_attn", _flash_attention), ("liger_kernel", _liger)):
        if importlib.util.find_spec(module) is None:
            found.append(Finding(module, "not installed"))
            continue
        error = compare(device)
        told = f"{version(module)}, off by {error:.1e}"
        found.append(Finding(module, told, error < 2e-2))
    return found


def _flash_attention(device: str) -> float:
    from flash_attn import flash_attn_func  # pyright: ignore

    q, k, v = (torch.randn(2, 64, 4, 64, device=device, dtype=torch.bfloat16) for _ in range(3))
    own = flash_attn_func(q, k, v, causal=True)
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    stock = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return float((own - stock.transpose(1, 2)).abs().max())  # pyright: ignore


def _liger(device: str) -> float:
    from liger_kernel.transformers import LigerRMSNorm  # pyright: ignore

    rows = torch.randn(8, 256, device=device)
    own = LigerRMSNorm(256, eps=1e-6).to(device)(rows)
    stock = torch.nn.functional.rms_norm(rows, (256,), eps=1e-6)
    return float((own - stock).abs().max())
