"""What makes a fixture: seeded random values, double-precision truth, deterministic files."""

import json
import re
import shutil
import struct
import zlib
from pathlib import Path

import torch

FIXTURES = Path(__file__).parent / "fixtures"
F64 = torch.float64
# float32 PyTorch may stray this far from the float64 truth, relative to the largest entry
TOLERANCE = {"out": 5e-6, "grad": 5e-5}
SHARP = (".to_q", ".to_k", ".q_proj", ".k_proj")  # attention that attends to something
BRANCH = (".conv2", ".to_out.0", ".ff.net.2", ".proj_out", ".out_proj", ".fc2")  # what is added to a residual stream


def rng(*key) -> torch.Generator:
    """A generator of its own for every key: adding a tensor never moves another one."""
    return torch.Generator().manual_seed(zlib.crc32(":".join(map(str, key)).encode()))


def normal(shape, *key, std=1.0) -> torch.Tensor:
    return torch.randn(shape, generator=rng(*key)) * std


def uniform(shape, *key, low=0.0, high=1.0) -> torch.Tensor:
    return torch.rand(shape, generator=rng(*key)) * (high - low) + low


def gain(path: str) -> float:
    """Weights that keep every signal alive and the whole well conditioned."""
    if path.startswith("controlnet_cond_embedding"):
        return 2.0  # a chain of convs without norms would fade
    return 1.2 if path.endswith(SHARP) else 0.5 if path.endswith(BRANCH) else 1.0


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: str) -> torch.nn.Module:
    """Gives EVERY parameter a value that matters: zero convs too, norms around one, biases off zero."""
    norms = (torch.nn.GroupNorm, torch.nn.LayerNorm)
    for path, module in model.named_modules():
        for leaf, p in module.named_parameters(recurse=False):
            value = normal(p.shape, seed, path, leaf)
            if isinstance(module, norms):
                p.copy_(0.2 * value + (1 if leaf == "weight" else 0))
            elif isinstance(module, torch.nn.Embedding):
                p.copy_(value)
            elif p.ndim == 1:
                p.copy_(0.2 * value)
            else:
                p.copy_(value * gain(path) / p[0].numel() ** 0.5)
    return model.eval()


def fresh(*parts) -> Path:
    """An empty fixture folder."""
    folder = FIXTURES.joinpath(*parts)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def write_safetensors(path: Path, tensors: dict, metadata: dict | None = None) -> None:
    """As `safetensors.torch.save_file`, but the header's order never changes (theirs hashes the metadata)."""
    kinds = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.int32: "I32"}
    header, body, at = {}, [], 0
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))
    for name, tensor in sorted(tensors.items(), key=lambda kv: (-kv[1].element_size(), kv[0])):
        data = tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": kinds[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + len(data)]}
        body.append(data)
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(body))


def write_io(path: Path, tensors: dict, **case) -> None:
    """Inputs `in.*`, outputs `out.*`, cotangents `cot.*`, gradients `grad.*`; floats as float32."""
    narrow = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    for name, tensor in narrow.items():
        assert not tensor.is_floating_point() or tensor.isfinite().all(), f"{path.name}: {name} is not finite"
        assert tensor.count_nonzero(), f"{path.name}: {name} is all zero, so it proves nothing"
    write_safetensors(path, narrow, {"case": json.dumps(case, sort_keys=True)} if case else None)


def write_json(path: Path, value) -> None:
    """One line per list of numbers, so that diffs stay readable."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    path.write_text(re.sub(r"\[[-+.\deE,\s]*\]", lambda m: " ".join(m[0].split()), text) + "\n")


def leaves(inputs: dict, dtype) -> dict:
    """The inputs in one precision; floats ask for gradients."""
    return {
        k: v.detach().to(dtype).clone().requires_grad_(True) if v.is_floating_point() else v for k, v in inputs.items()
    }


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference relative to the largest entry."""
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()


def expect_close(name: str, got: dict, want: dict) -> None:
    assert got.keys() == want.keys(), f"{name}: {got.keys() ^ want.keys()}"
    for kind, limit in TOLERANCE.items():
        worst, key = max(((error(got[k], want[k]), k) for k in want if k.startswith(kind)), default=(0, ""))
        print(f"  {name}: float32 strays {worst:.1e} at {key}")
        assert worst < limit, f"{name}: {key} differs by {worst:.1e}"


def vjp(outputs: dict, cotangents: dict, wrt: dict) -> dict:
    """`grad.<name>` of sum(outputs * cotangents) for every tensor in `wrt`."""
    total = sum((outputs[k] * cotangents[k].to(outputs[k].dtype)).sum() for k in cotangents)
    grads = torch.autograd.grad(total, list(wrt.values()))
    return {f"grad.{k}": g for k, g in zip(wrt, grads)}


def record(
    path: Path, model: torch.nn.Module, call, inputs: dict, params=None, frozen=("timestep",), tidy=dict, **case
) -> dict:
    """Runs `call(model, inputs) -> outputs` both ways in float64, holds float32 against it, saves the pair.

    `params(model)` names parameters whose gradients are wanted too; inputs in `frozen` get none. `tidy` may
    rename and join results.
    """
    results = {}
    for dtype in (torch.float32, F64):
        model = model.to(dtype)
        ins = leaves(inputs, dtype)
        outs = call(model, ins)
        cots = {k: normal(v.shape, path.parent.name, path.name, "cot", k) for k, v in outs.items()}
        wrt = {k: v for k, v in ins.items() if v.is_floating_point() and k not in frozen}
        wrt |= params(model) if params else {}
        grads = vjp(outs, cots, wrt) if wrt else {}
        results[dtype] = tidy({f"out.{k}": v.detach() for k, v in outs.items()} | grads)
    expect_close(str(path.relative_to(FIXTURES)), results[torch.float32], results[F64])
    named = {f"in.{k}": v for k, v in inputs.items()} | results[F64]
    if grads:
        named |= {f"cot.{k}": v for k, v in cots.items()}
    write_io(path, named, **case)
    return results[F64]


def every_parameter(prefix: str):
    """For `record(params=…)`: all parameters, named `<prefix>.<path>`."""
    return lambda model: {f"{prefix}.{n}": p for n, p in model.named_parameters()}
