"""Writes the golden vectors of this folder: `python test/golden/make.py` (see README.md).

Each case is one layer and one adapter module on it. The module is made, run and saved by its own library
(LyCORIS, PEFT); the expected values are the README's formulas in float64, and must agree with what the
library computes at strength 1.
"""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from lycoris.modules.full import FullModule
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
from fixture import error, normal, write_safetensors  # noqa: E402

HERE = Path(__file__).parent
RANK, ALPHA = 3, 2.0


def layer(kind: str) -> torch.nn.Module:
    module = {
        "linear": lambda: torch.nn.Linear(8, 12),
        "conv": lambda: torch.nn.Conv2d(8, 12, 3, stride=2, padding=1),
        # 24 = 4·6 and 36 = 6·6: wide enough for LoKr to split its matrices at rank 2
        "wide": lambda: torch.nn.Linear(24, 36),
        "wide-conv": lambda: torch.nn.Conv2d(24, 36, 3, stride=2, padding=1),
        "pointwise": lambda: torch.nn.Conv2d(8, 12, 1),
        "norm": lambda: torch.nn.GroupNorm(4, 8),
    }[kind]()
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(normal(p.shape, "golden", kind, name))
    return module


def inputs(name: str, module: torch.nn.Module) -> torch.Tensor:
    weight = module.weight
    shape = (5, weight.shape[1]) if weight.ndim == 2 else (2, weight.shape[1] if weight.ndim > 1 else 8, 6, 5)
    return normal(shape, "golden", name, "x")


def apply(kind: str, x, weight, bias):
    if weight.ndim == 2:
        return F.linear(x, weight, bias)
    if kind == "norm":
        return F.group_norm(x, 4, weight, bias)
    return F.conv2d(x, weight, bias, **({"stride": 2, "padding": 1} if weight.shape[-1] == 3 else {}))


# the formulas, each from the tensors of one module as files name them

def tucker(t, a, b):
    return torch.einsum("ijkl,ip,jr->prkl", t, a, b)


def low_rank(m):
    up, down = m["lora_up.weight"], m["lora_down.weight"]
    if "lora_mid.weight" in m:
        return torch.einsum("mnkl,om,ni->oikl", m["lora_mid.weight"], up.flatten(1), down.flatten(1))
    return (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])


def hadamard(m):
    if "hada_t1" in m:
        return tucker(m["hada_t1"], m["hada_w1_a"], m["hada_w1_b"]) * tucker(m["hada_t2"], m["hada_w2_a"], m["hada_w2_b"])
    return (m["hada_w1_a"] @ m["hada_w1_b"]) * (m["hada_w2_a"] @ m["hada_w2_b"])


def kronecker(m):
    one = m["lokr_w1"] if "lokr_w1" in m else m["lokr_w1_a"] @ m["lokr_w1_b"]
    if "lokr_t2" in m:
        two = tucker(m["lokr_t2"], m["lokr_w2_a"], m["lokr_w2_b"])
    else:
        two = m["lokr_w2"] if "lokr_w2" in m else m["lokr_w2_a"] @ m["lokr_w2_b"]
    two = two.flatten(1).reshape(two.shape[0], -1)
    # rows (a, c), columns (b, d·kernel)
    return torch.einsum("ab,cd->acbd", one, two).reshape(one.shape[0] * two.shape[0], -1)


def rank_of(m):
    """None where both factors of a Kronecker product are full: alpha says nothing then."""
    for leaf, axis in (("lora_down.weight", 0), ("hada_w1_b", 0), ("lokr_w1_b", 0), ("lokr_w2_b", 0)):
        if leaf in m:
            return m[leaf].shape[axis]


def changed(weight, bias, m, strength):
    """The layer's weight and bias under one module."""
    m = {k: v.double() for k, v in m.items()}
    weight, bias = weight.double(), bias.double()
    if "w_norm" in m:
        return weight + strength * m["w_norm"], bias + strength * m["b_norm"]
    shift = m.get("diff_b", torch.zeros_like(bias))
    if "diff" in m:
        delta, scale = m["diff"], 1.0
    else:
        formula = low_rank if "lora_up.weight" in m else hadamard if "hada_w1_a" in m else kronecker
        rank = rank_of(m)
        delta, scale = formula(m), 1.0 if rank is None else m["alpha"].item() / rank
    whole = weight + scale * delta.reshape(weight.shape)
    if "dora_scale" in m:
        magnitude = m["dora_scale"]
        axes = [a for a in range(weight.ndim) if a != (0 if magnitude.shape[0] == weight.shape[0] else 1)]
        whole = magnitude * whole / whole.pow(2).sum(axes, keepdim=True).sqrt()
    return weight + strength * (whole - weight), bias + strength * shift


def save(name: str, kind: str, module: torch.nn.Module, keys: dict, canonical: dict, x, library: torch.Tensor, text: str, config=None) -> None:
    weight, bias = module.weight.detach(), module.bias.detach()
    out = {"layer.weight": weight, "layer.bias": bias, "x": x}
    for tag, strength in (("y", 1.0), ("y.half", 0.5)):
        w, b = changed(weight, bias, canonical, strength)
        out[tag] = apply(kind, x.double(), w, b).float()
    strays = error(library, out["y"])
    print(f"{name}: the library strays {strays:.1e}")
    assert strays < 1e-5, name
    plain = apply(kind, x, weight, bias)
    assert error(plain, out["y"]) > 0.02 and error(plain, out["y.half"]) > 0.01, f"{name}: hardly acts"
    meta = {"layer": json.dumps({"type": kind}), "about": text} | ({"config": json.dumps(config)} if config else {})
    write_safetensors(HERE / f"{name}.safetensors", out | keys, meta)


class MixedLokr(LokrModule):
    """A legal mixture that LyCORIS makes for long, thin layers only."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        a, b = self.lokr_w2_a, self.lokr_w2_b
        del self.lokr_w2_a, self.lokr_w2_b
        self.use_w2, self.lokr_w2 = True, torch.nn.Parameter(torch.empty(a.shape[0], b.shape[1]))


@torch.no_grad()
def lycoris(name: str, kind: str, cls, text: str, rank: int = RANK, **options) -> None:
    base = layer(kind)
    x = inputs(name, base)
    module = cls("lora_unet_layer", base, 1.0, lora_dim=rank, alpha=ALPHA, **options)
    if cls is FullModule:
        module.apply_to()
    for key, p in [*module.named_parameters()]:
        if key.startswith("org_") or "org_module" in key:
            continue
        value = normal(p.shape, "golden", name, key)
        if key == "dora_scale":
            p.copy_(p * (1 + 0.3 * value))
        elif cls is FullModule:
            p.add_(0.3 * value)
        else:
            p.copy_(value * 0.7)
    state = module.custom_state_dict() if hasattr(module, "custom_state_dict") and module.custom_state_dict() else module.state_dict()
    state = {k: v.detach().float().clone() for k, v in state.items() if not k.startswith("org_")}
    module.eval()
    library = module(x)
    save(name, kind, layer(kind), {f"lora_unet_layer.{k}": v for k, v in state.items()}, state, x, library, text)


def peft_dora(name: str, kind: str) -> None:
    base = layer(kind)
    x = inputs(name, base)
    holder = torch.nn.Module()
    holder.layer = base
    weight, bias = base.weight.detach().clone(), base.bias.detach().clone()
    wrapped = get_peft_model(holder, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["layer"], use_dora=True))
    with torch.no_grad():
        for key, p in wrapped.named_parameters():
            if "magnitude" in key:
                p.mul_(1 + 0.3 * normal(p.shape, "golden", name, key))
            elif "lora_" in key:
                p.copy_(0.7 * normal(p.shape, "golden", name, key))
        library = wrapped.base_model.model.layer.eval()(x).detach()
    state = get_peft_model_state_dict(wrapped)
    find = lambda part: next(v for k, v in state.items() if part in k)  # noqa: E731
    magnitude = find("magnitude")
    canonical = {"lora_down.weight": find("lora_A"), "lora_up.weight": find("lora_B"), "alpha": torch.tensor(ALPHA)}
    canonical["dora_scale"] = magnitude.reshape(-1, *[1] * (weight.ndim - 1))
    plain = layer(kind)
    with torch.no_grad():
        plain.weight.copy_(weight)
        plain.bias.copy_(bias)
    text = "DoRA as PEFT saves it; rank and alpha stand in its config"
    save(name, kind, plain, dict(state), canonical, x, library, text, {"r": RANK, "lora_alpha": ALPHA, "use_dora": True})


def make() -> None:
    for old in HERE.glob("*.safetensors"):
        old.unlink()
    lycoris("lora-linear", "linear", LoConModule, "LoRA")
    lycoris("lora-conv", "conv", LoConModule, "LoCon")
    lycoris("lora-pointwise", "pointwise", LoConModule, "LoRA on a convolution of 1 x 1")
    lycoris("lora-tucker", "conv", LoConModule, "LoCon in Tucker form", use_tucker=True)
    lycoris("loha-linear", "linear", LohaModule, "LoHa")
    lycoris("loha-conv", "conv", LohaModule, "LoHa on a flattened kernel")
    lycoris("loha-tucker", "conv", LohaModule, "LoHa in Tucker form", use_tucker=True)
    lycoris("lokr-full", "linear", LokrModule, "LoKr, both matrices full: alpha is ignored", full_matrix=True)
    lycoris("lokr-conv-full", "conv", LokrModule, "LoKr, both matrices full", full_matrix=True)
    split = {"rank": 2}
    lycoris("lokr-linear", "wide", LokrModule, "LoKr, the second matrix split", **split)
    lycoris("lokr-both", "wide", LokrModule, "LoKr, both matrices split", **split, decompose_both=True)
    lycoris("lokr-first", "wide", MixedLokr, "LoKr, the first matrix split, the second full", **split, decompose_both=True)
    lycoris("lokr-conv", "wide-conv", LokrModule, "LoKr, the second matrix split", **split)
    lycoris("lokr-tucker", "wide-conv", LokrModule, "LoKr, the second matrix in Tucker form", **split, use_tucker=True)
    lycoris("lokr-both-tucker", "wide-conv", LokrModule, "LoKr, all factors", **split, use_tucker=True, decompose_both=True)
    lycoris("dora-lokr", "wide-conv", LokrModule, "DoRA over LoKr", **split, weight_decompose=True)
    lycoris("dora-linear", "linear", LoConModule, "DoRA, norm per output row", weight_decompose=True, wd_on_out=True)
    lycoris("dora-conv", "conv", LoConModule, "DoRA, norm per output row", weight_decompose=True, wd_on_out=True)
    lycoris("dora-input", "linear", LoConModule, "DoRA, norm per input column", weight_decompose=True, wd_on_out=False)
    lycoris("dora-input-conv", "conv", LoConModule, "DoRA, norm per input channel", weight_decompose=True, wd_on_out=False)
    lycoris("dora-loha", "linear", LohaModule, "DoRA over LoHa", weight_decompose=True)
    lycoris("full-linear", "linear", FullModule, "a plain difference of weight and bias")
    lycoris("full-conv", "conv", FullModule, "a plain difference of weight and bias")
    lycoris("norm", "norm", NormModule, "a difference of a norm's weight and bias")
    peft_dora("dora-peft-linear", "linear")
    peft_dora("dora-peft-conv", "conv")


make()
