"""A whole diffusers folder at pocket size, and the schedule that every stack runs on."""

from pathlib import Path

from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

import tokenizer
from fixture import randomise

SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "set_alpha_to_one": True,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(**SCHEDULE)


def save_pipeline(folder: Path, unet: UNet2DConditionModel) -> None:
    """A whole diffusers folder around a UNet: text encoder, tokenizer, tiny VAE (f = 4), v-prediction."""
    words = tokenizer.build(length=16)
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    )
    StableDiffusionPipeline(
        vae=randomise(vae, "pipeline/vae"),
        text_encoder=randomise(CLIPTextModel(text), "pipeline/text_encoder"),
        tokenizer=words,
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
