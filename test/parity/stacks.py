"""The adapters of a composition, and the composition itself in plain diffusers."""

import math
from pathlib import Path

import torch
from diffusers import ControlNetModel, DDIMScheduler, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from transformers import CLIPTextModel

from fixture import normal, randomise


def save_edit(folder: Path, unet: UNet2DConditionModel, widths: tuple, tasks: int | None = None) -> None:
    """A ControlNet of the UNet's shape whose hint encoder halves the image once per width after the first."""
    blank = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=widths, load_weights_from_unet=False)
    config = {k: v for k, v in blank.config.items() if not k.startswith("_")} | {"num_class_embeds": tasks}
    randomise(ControlNetModel(**config), f"{folder.parent.name}/edit").save_pretrained(folder)


def save_video(folder: Path, unet: UNet2DConditionModel, learned_positions: bool, **config) -> None:
    """UNetMotionModel takes the norm groups from the UNet, whatever the adapter says, so the two agree here."""
    adapter = MotionAdapter(
        block_out_channels=unet.config.block_out_channels,
        motion_layers_per_block=unet.config.layers_per_block,
        motion_norm_num_groups=unet.config.norm_num_groups,
        **config,
    )
    randomise(adapter, f"{folder.parent.name}/video")
    if learned_positions:  # the table in the file counts, not the formula
        for name, table in adapter.named_buffers():
            table.add_(normal(table.shape, folder.parent.name, name, std=0.3))
    adapter.save_pretrained(folder)


class PerFrame(torch.nn.Module):
    """A motion module's norm as AnimateDiff's own code has it: statistics of each frame, not of the clip."""

    def __init__(self, norm: torch.nn.GroupNorm):
        super().__init__()
        self.norm = norm

    def forward(self, clips):
        """[B,C,F,H,W]"""
        rows = clips.transpose(1, 2)
        return self.norm(rows.flatten(0, 1)).unflatten(0, rows.shape[:2]).transpose(1, 2)


class Stack(torch.nn.Module):
    """A frozen UNet under any of: a ControlNet with its own text, a MotionAdapter, LoRAs (added to `unet` by PEFT)."""

    def __init__(self, model: Path, edit: Path | None = None, video: Path | None = None, text: bool = False):
        super().__init__()
        base = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32)
        self.frames = video is not None
        self.unet = UNetMotionModel.from_unet2d(base, MotionAdapter.from_pretrained(video)) if self.frames else base
        self.edit = ControlNetModel.from_pretrained(edit, torch_dtype=torch.float32) if edit else None
        self.text_encoder = CLIPTextModel.from_pretrained(model / "text_encoder") if text else None
        self.edit_strength = 1.0
        self.video_strength = 1.0
        self.prompt = None  # what an IP-Adapter reads
        for module in self.unet.modules():
            if isinstance(module, AnimateDiffTransformer3D):
                module.register_forward_hook(self.gate_motion)
        self.eval().requires_grad_(False)

    def norm_per_frame(self):
        for module in self.unet.modules():
            if isinstance(module, AnimateDiffTransformer3D):
                module.norm = PerFrame(module.norm)

    def gate_motion(self, _module, args, out):
        """A motion module adds to the value it gets; its strength scales what it adds."""
        return out if self.video_strength == 1 else args[0] + self.video_strength * (out - args[0])

    def forward(self, sample, timestep, text, image=None, edit_text=None, task=None):
        """The raw prediction. `sample` [B,C,F,H,W] with motion, else [N,C,H,W]; texts per clip; F or B*F images."""
        clips, frames = (sample.shape[0], sample.shape[2]) if self.frames else (sample.shape[0], 1)
        residuals = {}
        if self.edit is not None:
            rows = sample.transpose(1, 2).flatten(0, 1) if self.frames else sample
            if image.shape[0] != rows.shape[0]:  # one clip's frames, for every clip
                image = image.repeat(clips, 1, 1, 1)
            labels = None if task is None else task.expand(clips).repeat_interleave(frames)
            down, mid = self.edit(
                rows,
                timestep.expand(clips).repeat_interleave(frames),
                edit_text.repeat_interleave(frames, 0),
                image,
                conditioning_scale=self.edit_strength,
                class_labels=labels,
                return_dict=False,
            )
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        return self.unet(sample, timestep, text.repeat_interleave(frames, 0), added_cond_kwargs=self.prompt, **residuals).sample

    def call(self, x: dict):
        """Inputs by their `attune probe` names."""
        names = ("edit.image", "edit.encoder_hidden_states", "edit.task")
        return self(x["sample"], x["timestep"], x["encoder_hidden_states"], *(x.get(n) for n in names))

    def rollout(self, x: dict, scheduler: DDIMScheduler):
        """DDIM in v is a rotation: x' = cos(d) x - sin(d) v with d = angle(t) - angle(t'); the last t' is clean."""
        latents = x["latents"]
        angles = [math.acos(scheduler.alphas_cumprod[t].double().sqrt()) for t in x["timesteps"]] + [0.0]
        for t, now, then in zip(x["timesteps"], angles, angles[1:]):
            v = self.call(x | {"sample": latents, "timestep": t[None]})
            latents = math.cos(now - then) * latents - math.sin(now - then) * v
        return latents
