"""Configurations of small transformers, in folders as the hub has them; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import transformers

_SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
_PICTURES = {"image_size": 24, "patch_size": 8, "num_frames": 4, **_SMALL}
_SOUND = {
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 4, 4),
    "conv_kernel": (10, 4, 4),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    **_SMALL,
}
VIDEO = ("VideoMAE", "VJEPA2", "Timesformer", "Vivit")
AUDIO = ("AST", "Hubert", "Wav2Vec2")


def folder(place: Path, name: str) -> str:
    """A folder with the configuration of a model, and of its front end where it has one."""
    place = place / name
    config_of = getattr(transformers, f"{name}Config")
    if name == "VJEPA2":
        sizes = {"crop_size": 24, "patch_size": 8, "frames_per_clip": 4, "mlp_ratio": 2.0}
        predictor = {"pred_hidden_size": 48, "pred_num_attention_heads": 2}
        small = _SMALL | {"hidden_size": 48, "pred_num_hidden_layers": 1}
        config_of(**sizes, **predictor, **small).save_pretrained(place)
    elif name == "AST":
        config_of(max_length=100, num_mel_bins=64, **_SMALL).save_pretrained(place)
        front = transformers.ASTFeatureExtractor(num_mel_bins=64, max_length=100, mean=-4.0)
        front.save_pretrained(place)
    elif name in AUDIO:
        config_of(**_SOUND).save_pretrained(place)
        transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(place)
    else:
        tubes = {"tubelet_size": [2, 8, 8]} if name == "Vivit" else {}
        config_of(**_PICTURES, **tubes).save_pretrained(place)
    return str(place)
