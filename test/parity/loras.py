"""LoRAs: one set of values, three file formats, and the way into a diffusers model."""

import json
import re
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file

from fixture import normal, write_json, write_safetensors

SPATIAL = r"(?!.*motion_modules).*\."
# name: {part of the pipeline: its PEFT settings}; `r` and `lora_alpha` are per module through the patterns
LOOK = {
    "unet": {
        "target_modules": SPATIAL + r"(attn1\.to_[qkv]|attn2\.to_q|attn[12]\.to_out\.0|ff\.net\.0\.proj|ff\.net\.2"
        r"|proj_in|proj_out|conv1|conv2|time_emb_proj)",
        "r": 4,
        "lora_alpha": 3,
        "rank_pattern": {"conv1": 2, "conv2": 2, "ff.net.2": 3},
        "alpha_pattern": {"conv1": 1, "attn1.to_q": 6},
    }
}
# not proj_in and proj_out: diffusers calls them by keyword, which peft's layers refuse
SWAY = {
    "unet": {
        "target_modules": r".*motion_modules\..*\.(attn[12]\.to_[qkv]|attn[12]\.to_out\.0|ff\.net\.0\.proj|ff\.net\.2)",
        "r": 3,
        "lora_alpha": 3,
    }
}
WORDS = {
    "unet": {"target_modules": SPATIAL + r"attn2\.to_[kv]", "r": 4, "lora_alpha": 2},
    "text_encoder": {"target_modules": r".*self_attn\.(q_proj|v_proj)", "r": 2, "lora_alpha": 4},
}


def small(spec: dict) -> dict:
    """The same LoRA with rank 2 throughout."""
    return {part: settings | {"r": 2, "rank_pattern": {}} for part, settings in spec.items()}


def settings(spec: dict) -> LoraConfig:
    return LoraConfig(**spec, init_lora_weights=False)


def add(model, name: str, spec: dict) -> None:
    """Injects the LoRA with random values: A of unit gain, B so that the delta is a good part of the weight."""
    model.add_adapter(settings(spec), adapter_name=name)
    with torch.no_grad():
        for key, p in parameters(model, name).items():
            gain = 1.0 if key.endswith("lora_A.weight") else 0.3
            p.copy_(normal(p.shape, name, key) * gain / p[0].numel() ** 0.5)


def parameters(model, name: str) -> dict:
    """The LoRA's parameters by their names in a file: `<path>.lora_A.weight`."""
    leaf = f".{name}.weight"
    return {k.replace(leaf, ".weight"): p for k, p in model.named_parameters() if ".lora_" in k and k.endswith(leaf)}


def values(models: dict, name: str, spec: dict) -> dict:
    """`unet.<path>.lora_A.weight` and `text_encoder.…`: the keys of a diffusers file."""
    found = {f"{part}.{k}": p for part in spec for k, p in parameters(models[part], name).items()}
    return {k: p.detach().float().clone() for k, p in found.items()}


def alpha_of(spec: dict, path: str) -> float:
    """A module's alpha, as peft resolves its patterns."""
    for pattern, alpha in spec.get("alpha_pattern", {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return float(alpha)
    return float(spec["lora_alpha"])


def save_diffusers(path: Path, tensors: dict, spec: dict) -> None:
    """By diffusers itself, with `lora_adapter_metadata`; then written again with its header in a fixed order."""
    parts = {}
    for part, part_spec in spec.items():
        parts[f"{part}_lora_layers"] = {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(part)}
        parts[f"{part}_lora_adapter_metadata"] = settings(part_spec).to_dict()
    StableDiffusionPipeline.save_lora_weights(path.parent, weight_name=path.name, **parts)
    with safe_open(path, "pt") as file:
        write_safetensors(path, {k: file.get_tensor(k) for k in file.keys()}, file.metadata())
    assert load_file(path).keys() == tensors.keys()


def save_kohya(path: Path, tensors: dict, spec: dict) -> None:
    """`lora_unet_<path with _>.lora_down|lora_up.weight` and `.alpha`; text modules keep the `text_model` of old."""
    out = {}
    for key, tensor in tensors.items():
        part, path_, side = re.match(r"(unet|text_encoder)\.(.*)\.(lora_[AB])\.weight", key).groups()
        prefix = "lora_unet_" if part == "unet" else "lora_te_text_model_"
        base = prefix + path_.replace(".", "_")
        out[f"{base}.{'lora_down' if side == 'lora_A' else 'lora_up'}.weight"] = tensor
        if side == "lora_A":
            out[f"{base}.alpha"] = torch.tensor(alpha_of(spec[part], path_))
    write_safetensors(path, out, {"ss_network_module": "networks.lora", "ss_base_model_version": "sd_v1"})


def save_peft(folder: Path, model, tensors: dict, spec: dict) -> None:
    """`adapter_config.json` + `adapter_model.safetensors`, by PEFT itself around a fresh `model`."""
    model.name_or_path, model.config._name_or_path = "", ""
    wrapped = get_peft_model(model, settings(spec["unet"]))
    with torch.no_grad():
        for key, p in parameters(model, "default").items():
            p.copy_(tensors[f"unet.{key.removeprefix('base_model.model.')}"])
    wrapped.peft_config["default"].base_model_name_or_path = None
    wrapped.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    write_json(folder / "adapter_config.json", dict(sorted(config.items())))
    saved = load_file(folder / "adapter_model.safetensors")
    assert saved.keys() == {"base_model.model." + k.removeprefix("unet.") for k in tensors}


def merge_kohya(model, path: Path, multiplier: float, prefix="lora_unet_") -> None:
    """The one rule, W + m * alpha / r * (B A), read from a kohya file: an independent path to the same output."""
    file = load_file(path)
    with torch.no_grad():
        for name, module in model.named_modules():
            base = prefix + name.replace(".", "_")
            if f"{base}.alpha" in file:
                down, up, alpha = (
                    file[f"{base}.{k}"].double() for k in ("lora_down.weight", "lora_up.weight", "alpha")
                )
                delta = up.flatten(1) @ down.flatten(1) * (multiplier * alpha / down.shape[0])
                module.weight += delta.reshape(module.weight.shape).to(module.weight.dtype)
