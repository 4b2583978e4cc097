"""Checkpoints of torch.save, good and hostile, and the tensors that the good ones hold."""

import collections
import pickle
import re
import zipfile

import numpy
import torch
from diffusers.loaders.single_file_utils import (
    convert_animatediff_checkpoint_to_diffusers,
    convert_controlnet_checkpoint,
)
from safetensors.torch import load_file

from common import FIXTURES, fresh, normal, write_safetensors


class Code:
    """Pickled, it asks its reader to run a command."""

    def __reduce__(self):
        import os

        return os.system, ("echo harm",)


class Thing:
    """An object of a class that no reader has."""

    def __init__(self):
        self.weight = torch.ones(2)


def tensors() -> dict:
    whole = normal((6, 5), "checkpoints", "whole")
    return {
        "plain.weight": whole,
        "plain.bias": normal((6,), "checkpoints", "bias").half(),
        "thin": normal((3, 2), "checkpoints", "thin").bfloat16(),
        "steps": torch.arange(4),
        "counts": torch.arange(3, dtype=torch.int32),
        "turned": whole.t(),
        "part": whole[1:5:2, 1:4],
        "tied": whole,
        "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(normal((2, 2), "checkpoints", "parameter")),
    }


def original_motion(path) -> None:
    """The motion modules of compose/sd15 as AnimateDiff's own training saves them; diffusers reads them back."""
    known = load_file(FIXTURES / "compose/sd15/video/diffusion_pytorch_model.safetensors")
    names = [(".attn1.", ".attention_blocks.0."), (".attn2.", ".attention_blocks.1."), (".norm1.", ".norms.0.")]
    names += [(".norm2.", ".norms.1."), (".norm3.", ".ff_norm.")]
    state = {}
    for name, value in known.items():
        module, block, rest = re.match(r"(.*motion_modules\.\d+\.)(transformer_blocks\.\d+)?(.*)", name).groups()
        if rest == ".pos_embed.pe":
            for attention in (0, 1):
                state[f"{module}temporal_transformer.{block}.attention_blocks.{attention}.pos_encoder.pe"] = value
            continue
        for new, old in names if block else ():
            rest = rest.replace(new, old)
        state[f"{module}temporal_transformer.{block or ''}{rest}"] = value
    read = convert_animatediff_checkpoint_to_diffusers(state)
    assert read.keys() == {name for name in known if not name.endswith(".pe")}
    assert all(torch.equal(read[name], known[name]) for name in read)
    torch.save({"epoch": 2, "global_step": 9, "state_dict": {f"module.{name}": v for name, v in state.items()}}, path)


RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1"}
RESNET |= {"norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}


def ldm_name(name: str, layers: int) -> str:
    """A ControlNet's weight as the original code calls it."""
    part, leaf = name.rsplit(".", 1)
    hint = re.match(r"controlnet_cond_embedding\.(conv_in|conv_out|blocks\.(\d+))", part)
    if hint:
        at = {"conv_in": 0, "conv_out": 14}.get(hint[1])
        return f"input_hint_block.{2 * int(hint[2]) + 2 if at is None else at}.{leaf}"
    if part.startswith("controlnet_down_blocks"):
        return f"zero_convs.{part.split('.')[1]}.0.{leaf}"
    single = {"controlnet_mid_block": "middle_block_out.0", "conv_in": "input_blocks.0.0"}
    single |= {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
    if part in single:
        return f"{single[part]}.{leaf}"
    block, kind, index, rest = re.match(r"(mid_block|down_blocks\.\d+)\.(resnets|attentions|downsamplers)\.(\d+)\.(.*)", part).groups()
    rest = RESNET[rest] if kind == "resnets" else "op" if kind == "downsamplers" else rest
    if block == "mid_block":
        return f"middle_block.{2 * int(index) if kind == 'resnets' else 1}.{rest}.{leaf}"
    place = 1 + int(block.split(".")[1]) * (layers + 1) + (layers if kind == "downsamplers" else int(index))
    return f"input_blocks.{place}.{1 if kind == 'attentions' else 0}.{rest}.{leaf}"


def original_control(folder) -> None:
    """The ControlNet of compose/sd15, without its tasks, as the original code saves it; diffusers reads it back."""
    known = load_file(FIXTURES / "compose/sd15/edit/diffusion_pytorch_model.safetensors")
    known = {name: value for name, value in known.items() if not name.startswith("class_embedding")}
    state = {ldm_name(name, layers=2): value for name, value in known.items()}
    read = convert_controlnet_checkpoint(dict(state), {"layers_per_block": 2})
    assert read.keys() == known.keys() and all(torch.equal(read[name], known[name]) for name in known)
    half = {f"control_model.{name}": value.half() for name, value in state.items()}
    torch.save({"state_dict": half}, folder / "control.pth")


def make() -> None:
    folder = fresh("checkpoints")
    state = collections.OrderedDict(tensors())
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    torch.save(state, folder / "bare.pth")
    torch.save({"state_dict": dict(state), "epoch": 3, "optimizer": {"lr": 0.1, "m": [torch.ones(2)]}}, folder / "wrapped.ckpt")
    nested = {"string_to_param": {"*": torch.nn.Parameter(normal((2, 4), "checkpoints", "token"))}, "name": "cat", "step": None}
    torch.save(nested, folder / "nested.pt", pickle_protocol=4)
    write_safetensors(folder / "bare.safetensors", {k: v.contiguous() for k, v in state.items()})
    write_safetensors(folder / "nested.safetensors", {"string_to_param.*": nested["string_to_param"]["*"]})

    # a LoRA as older repositories have it
    torch.save(load_file(FIXTURES / "compose/pocket/words.kohya.safetensors"), folder / "words.kohya.pt")

    original_motion(folder / "motion.ckpt")
    original_control(folder)

    torch.save({"weight": torch.ones(2), "code": Code()}, folder / "code.pt")
    torch.save({"weight": torch.ones(2), "thing": Thing()}, folder / "thing.pt")
    torch.save({"weight": torch.ones(2), "step": numpy.float64(3)}, folder / "numpy.pt")
    torch.save({"weight": torch.ones(2, dtype=torch.complex64)}, folder / "complex.pt")
    torch.save({"weight": torch.ones(2).expand(1000, 2)}, folder / "repeated.pt")
    torch.save({"weight": torch.ones(2)}, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3}, folder / "empty.pt")
    with zipfile.ZipFile(folder / "bare.pth") as good, zipfile.ZipFile(folder / "compressed.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in good.namelist():
            packed.writestr(zipfile.ZipInfo(name), good.read(name), zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(folder / "pictures.zip", "w") as other:
        other.writestr(zipfile.ZipInfo("a.txt"), "no checkpoint")
    (folder / "pickle.pkl").write_bytes(pickle.dumps({"weight": [1.0]}))
