"""Checkpoints of torch.save, good and hostile, and the tensors that the good ones hold."""

import collections
import json
import pickle
import re
import types
import zipfile

import numpy
import torch
from diffusers.loaders.single_file_utils import (
    convert_animatediff_checkpoint_to_diffusers,
    convert_controlnet_checkpoint,
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import load_file, save_file

from fixture import FIXTURES, fresh, normal, write_json, write_safetensors


EIGHTS = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


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


def eights(folder) -> None:
    """Every byte as an 8-bit float of both types, and the half that PyTorch makes of it."""
    codes = torch.arange(256, dtype=torch.uint8)
    known = {name: codes.clone().view(kind) for name, kind in EIGHTS.items()}
    save_file(known, folder / "eights.safetensors")
    write_safetensors(folder / "eights.f16.safetensors", {name: value.half() for name, value in known.items()})
    torch.save({"weight": known["e4m3"]}, folder / "eights.pt")


def embedding(folder) -> None:
    """A textual inversion as the first programs saved it: a ParameterDict, and what else they keep."""
    vectors = torch.nn.Parameter(normal((2, 24), "checkpoints", "embedding"))
    params = torch.nn.ParameterDict({"*": vectors})
    token = torch.tensor(265)
    saved = {"string_to_token": {"*": token}, "string_to_param": params, "name": "cat", "step": 9}
    torch.save(saved, folder / "embedding.pt")
    write_safetensors(folder / "embedding.safetensors", {"string_to_token.*": token, "string_to_param.*": vectors})


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
    single |= {"conv_norm_out": "out.0", "conv_out": "out.2"}
    if part in single:
        return f"{single[part]}.{leaf}"
    pattern = r"(mid_block|(?:down|up)_blocks\.\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)"
    block, kind, index, rest = re.match(pattern, part).groups()
    rest = RESNET[rest] if kind == "resnets" else "op" if kind == "downsamplers" else rest
    if block.startswith("up"):
        level = int(block.split(".")[1])
        place = level * (layers + 1) + (layers if kind == "upsamplers" else int(index))
        # the first level of the decoder has no attention in both fixtures, so its upsampling comes second
        second = {"resnets": 0, "attentions": 1, "upsamplers": 2 if level else 1}[kind]
        return f"output_blocks.{place}.{second}.{rest}.{leaf}"
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


def changed_control(folder) -> None:
    """The same ControlNet three times: whole, as a difference from its base, as low-rank changes of it."""
    base = load_file(FIXTURES / "unet/sd15/unet/diffusion_pytorch_model.safetensors")
    own = load_file(FIXTURES / "compose/sd15/edit/diffusion_pytorch_model.safetensors")
    whole, delta, lora = {}, {}, {"lora_controlnet": torch.zeros(0)}
    for name, value in own.items():
        if name.startswith("class_embedding"):
            continue
        ldm = ldm_name(name, 2)
        if name not in base:
            whole[name] = delta[ldm] = lora[ldm] = value
            continue
        if value.ndim > 1:
            up, down = (normal(shape, "control", name, i) for i, shape in enumerate([(value.shape[0], 2), (2, *value.shape[1:])]))
            up *= 0.2
            whole[name] = base[name] + (up @ down.flatten(1)).reshape(value.shape)
            stem = ldm.removesuffix(".weight")
            lora |= {f"{stem}.up": up, f"{stem}.down": down}
        elif name.endswith("bias") and "resnets" in name:
            whole[name] = base[name]  # and nothing in the Control-LoRA
        else:
            whole[name] = lora[ldm] = value
        delta[ldm] = whole[name] - base[name]
    write_safetensors(folder / "control.whole.safetensors", whole)
    write_safetensors(folder / "control.lora.safetensors", lora)
    marked = {f"control_model.{k}": v for k, v in delta.items()} | {"difference": torch.zeros(0)}
    write_safetensors(folder / "control.difference.safetensors", marked)


def ldm_vae_name(name: str, levels: int) -> str:
    """An AutoencoderKL's weight as the original code calls it."""
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    swaps = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    for new, old in swaps.items():
        name = name.replace(f"mid_block.attentions.0.{new}.", f"mid.attn_1.{old}.")
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


OPEN_CLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
OPEN_CLIP |= {"self_attn.out_proj": "attn.out_proj"}


def open_clip(known: dict) -> dict:
    """A CLIP text encoder as OpenCLIP names it: queries, keys and values in one matrix."""
    state = {
        "token_embedding.weight": known["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": known["text_model.embeddings.position_embedding.weight"],
        "ln_final.weight": known["text_model.final_layer_norm.weight"],
        "ln_final.bias": known["text_model.final_layer_norm.bias"],
    }
    for name, value in known.items():
        found = re.match(r"text_model\.encoder\.layers\.(\d+)\.(.*)\.(weight|bias)", name)
        if not found:
            continue
        layer, part, leaf = found.groups()
        if part == "self_attn.q_proj":
            three = [known[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
            state[f"transformer.resblocks.{layer}.attn.in_proj_{leaf}"] = torch.cat(three)
        elif part in OPEN_CLIP:
            state[f"transformer.resblocks.{layer}.{OPEN_CLIP[part]}.{leaf}"] = value
    return state


def leftovers(unet: dict) -> dict:
    """What a training leaves in such a file, the moving average's names with a number each."""
    return {
        "alphas_cumprod": torch.ones(10), "betas": torch.ones(10), "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(3, dtype=torch.int32),
        "global_step": torch.tensor(7),
    } | {f"model_ema.diffusion_model{k.replace('.', '')}": torch.ones(1) for k in unet}


def whole(folder) -> None:
    """Stable Diffusion 1 and 2 in one file each, small; diffusers' own converters read them back."""
    for name, unet, vae, text in (("sd1", "sd15", "kl-3", "quick"), ("sd2", "sd2", "kl-2", "exact")):
        parts = {"unet": f"unet/{unet}/unet", "vae": f"vae/{vae}/vae", "text_encoder": f"clip/{text}/text_encoder_wrapped"}
        weights, configs = {}, {}
        for part, place in parts.items():
            configs[part] = json.loads((FIXTURES / place / "config.json").read_text())
            shards = sorted((FIXTURES / place).glob("*.safetensors"))
            known = {k: v for shard in shards for k, v in load_file(shard).items()}
            weights[part] = {k: v for k, v in known.items() if not k.endswith("position_ids")}
            target = folder / f"{name}.configs" / part
            target.mkdir(parents=True)
            write_json(target / "config.json", configs[part])
        layers, levels = configs["unet"]["layers_per_block"], len(configs["vae"]["block_out_channels"])
        image = {ldm_name(k, layers): v for k, v in weights["unet"].items()}
        state = {f"model.diffusion_model.{k}": v for k, v in image.items()}
        for key, value in weights["vae"].items():
            square = ".attentions.0.to_" in key and value.ndim == 2
            state[f"first_stage_model.{ldm_vae_name(key, levels)}"] = value[:, :, None, None] if square else value
        if name == "sd1":
            state |= {f"cond_stage_model.transformer.{k}": v for k, v in weights["text_encoder"].items()}
            positions = torch.arange(configs["text_encoder"]["max_position_embeddings"])[None]
            state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = positions
        else:
            state |= {f"cond_stage_model.model.{k}": v for k, v in open_clip(weights["text_encoder"]).items()}
            state["cond_stage_model.model.logit_scale"] = torch.tensor(4.6)
        checks = {
            "unet": convert_ldm_unet_checkpoint(dict(state), configs["unet"]),
            "vae": convert_ldm_vae_checkpoint(dict(state), configs["vae"]),
        }
        if name == "sd1":
            read = convert_ldm_clip_checkpoint(dict(state))
            checks["text_encoder"] = {k: v for k, v in read.items() if "position_ids" not in k}
        else:
            width = types.SimpleNamespace(hidden_size=configs["text_encoder"]["hidden_size"])
            model = types.SimpleNamespace(config=width)
            checks["text_encoder"] = convert_open_clip_checkpoint(model, dict(state))
        for part, read in checks.items():
            assert read.keys() == weights[part].keys(), (name, part, read.keys() ^ weights[part].keys())
            assert all(torch.equal(read[k].flatten(), weights[part][k].flatten()) for k in read), (name, part)
        if name == "sd1":
            torch.save({"epoch": 1, "state_dict": state | leftovers(image)}, folder / "sd1.ckpt")
        else:
            write_safetensors(folder / "sd2.safetensors", state, {"modelspec.prediction_type": "epsilon"})


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

    eights(folder)
    embedding(folder)

    # a LoRA as older repositories have it
    torch.save(load_file(FIXTURES / "compose/pocket/words.kohya.safetensors"), folder / "words.kohya.pt")

    original_motion(folder / "motion.ckpt")
    original_control(folder)
    changed_control(folder)
    whole(folder)

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
