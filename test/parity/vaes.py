"""AutoencoderKL and AutoencoderTiny: encoder, decoder and their gradients."""

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import load_file

from fixture import every_parameter, fresh, normal, randomise, record, uniform, write_safetensors

WEIGHTS = "diffusion_pytorch_model.safetensors"


def kl(widths, **rest) -> AutoencoderKL:
    levels = len(widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=widths,
        norm_num_groups=4,
        sample_size=16,
        **rest,
    )


def tiny(stages, latent_channels, **rest) -> AutoencoderTiny:
    widths = (8,) * len(stages)
    return AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=stages,
        num_decoder_blocks=tuple(reversed(stages)),
        latent_channels=latent_channels,
        **rest,
    )


# name: (model, image shape)
CONFIGS = {
    "kl-2": (lambda: kl((8, 16), layers_per_block=2, latent_channels=4), (2, 3, 16, 12)),
    "kl-3": (
        lambda: kl((8, 16, 16), layers_per_block=1, latent_channels=8, scaling_factor=0.5, shift_factor=0.1),
        (1, 3, 16, 24),
    ),
    "tiny-f8": (lambda: tiny((1, 3, 3, 3), 4), (2, 3, 32, 24)),
    "tiny-f4": (lambda: tiny((1, 2, 2), 8, scaling_factor=0.9), (2, 3, 16, 24)),
}


def load(name: str, folder: Path) -> torch.nn.Module:
    cls = AutoencoderKL if name.startswith("kl") else AutoencoderTiny
    return cls.from_pretrained(folder, torch_dtype=torch.float32).eval()


def encode(model, x):
    if isinstance(model, AutoencoderTiny):
        return {"latents": model.encode(x["pixels"]).latents}
    posterior = model.encode(x["pixels"]).latent_dist
    return {"latents": posterior.mean, "logvar": posterior.logvar}


def decode(model, x):
    return {"pixels": model.decode(x["latents"]).sample}


def reconstruct(model, x):
    return decode(model, encode(model, x))


def old_names(source: Path, target: Path) -> None:
    """The attention layers as SD-1.5 repositories still name them: query, key, value, proj_attn."""
    shutil.copytree(source, target)
    pairs = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = {}
    for name, tensor in load_file(source / WEIGHTS).items():
        for new, old in pairs.items():
            name = name.replace(new, old)
        tensors[name] = tensor
    write_safetensors(target / WEIGHTS, tensors, {"format": "pt"})


def make() -> None:
    for name, (build, shape) in CONFIGS.items():
        folder = fresh("vae", name)
        randomise(build(), f"vae/{name}").save_pretrained(folder / "vae")
        images = {"pixels": uniform(shape, name, "pixels", low=-1)}
        encoded = record(folder / "io.encode.safetensors", load(name, folder / "vae"), encode, images)
        # latents of about unit size, not the encoder's own: the decoders see those in use
        latents = {"latents": normal(encoded["out.latents"].shape, name, "latents")}
        record(folder / "io.decode.safetensors", load(name, folder / "vae"), decode, latents)
        if name == "kl-2":
            old_names(folder / "vae", folder / "vae_old_names")
            both = [decode(load(name, folder / part), latents)["pixels"] for part in ("vae", "vae_old_names")]
            assert torch.equal(*both)
        if name == "tiny-f4":  # training from scratch: every parameter's gradient
            model, everything = load(name, folder / "vae"), every_parameter("vae")
            record(folder / "io.params.safetensors", model, reconstruct, images, params=everything)
