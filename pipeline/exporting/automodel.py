"""What makes an exported folder load with the Auto classes of transformers.

transformers reads in ``auto_map`` of the two JSON files which classes of which files it may load,
where its user says ``trust_remote_code=True``. The files are copies of those in `hub`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

_HUB = Path(__file__).parent / "hub"
_MODELING = "modeling_xdc"
_CLASSES = {
    "video": ("XdcVideoConfig", "XdcVideoModel"),
    "audio": ("XdcAudioConfig", "XdcAudioModel"),
}
_PROCESSORS = {
    "video": ("video_processing_xdc", "XdcVideoProcessor"),
    "audio": ("feature_extraction_xdc", "XdcFeatureExtractor"),
}
# AutoProcessor finds both. The others are what people write for pictures, video and sound.
_PROCESSOR_KINDS = {
    "video": ("AutoProcessor", "AutoVideoProcessor", "AutoImageProcessor"),
    "audio": ("AutoProcessor", "AutoFeatureExtractor"),
}
# Every file that an export may hold, so that a later one can delete it.
FILES = tuple(f"{name}.py" for name in (_MODELING, *(file for file, _ in _PROCESSORS.values())))


def code(modality: str) -> dict[str, str]:
    """File name → Python source; they import ``encoder.py`` beside them."""
    names = (f"{_MODELING}.py", f"{_PROCESSORS[modality][0]}.py")
    return {name: (_HUB / name).read_text() for name in names}


def model_keys(modality: str) -> dict[str, Any]:
    """Of config.json."""
    config, model = _CLASSES[modality]
    paths = {"AutoConfig": f"{_MODELING}.{config}", "AutoModel": f"{_MODELING}.{model}"}
    return {"architectures": [model], "auto_map": paths}


def processor_keys(modality: str) -> dict[str, Any]:
    """Of preprocessor_config.json."""
    path = ".".join(_PROCESSORS[modality])
    return {"auto_map": dict.fromkeys(_PROCESSOR_KINDS[modality], path)}
