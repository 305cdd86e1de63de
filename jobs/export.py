"""Take a run's encoders elsewhere: ``python jobs/export.py RUN OUT``.

Writes OUT/video and OUT/audio in the layout of model hubs, as ``AutoModel.from_pretrained`` loads
it: ``model.safetensors``, ``config.json``, ``preprocessor_config.json``, Python code and a model
card; and as asked ``torchvision.pt``, ``model.onnx`` (which needs the extra ``export``) and
``model.pt2``.
"""

from __future__ import annotations

import argparse

from pipeline.run import Run
from pipeline.runtime.places import refuse_passing
from pipeline.runtime.session import run_job
from pipeline.storage import Location
from pipeline.telemetry.console import say


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="run directory, local or s3://, gs:// …")
    parser.add_argument("out", help="folder to write, local or s3://, gs:// …")
    parser.add_argument("--round", type=int, help="which round (default: the last finished one)")
    parser.add_argument("--modality", choices=("video", "audio", "both"), default="both")
    parser.add_argument(
        "--formats",
        nargs="+",
        choices=("safetensors", "torchvision", "onnx", "torch-export"),
        default=["safetensors"],
        help="safetensors is always written",
    )
    parser.add_argument(
        "--front-end",
        action="store_true",
        help="graphs begin with uint8 frames and with the waveform: log-mel is inside",
    )
    parser.add_argument("--license", default="unknown", help="of the weights, for the model card")
    parser.add_argument(
        "--push",
        metavar="NAME/REPO",
        help="upload to NAME/REPO-video and NAME/REPO-audio; new ones are private",
    )
    options = parser.parse_args(arguments)
    refuse_passing([options.run, options.out])
    run, out = Run.existing(options.run), Location.of(options.out)
    number = run.finished_round(options.round).number
    # Imported when the run is known to be there: torch takes seconds.
    from pipeline.exporting.folder import Export
    from pipeline.exporting.push import Push

    modalities = ("video", "audio") if options.modality == "both" else (options.modality,)
    exports = {
        modality: Export(run, number, modality, options.formats, options.front_end, options.license)
        for modality in modalities
    }
    push = None if options.push is None else Push(options.push)
    if push:
        push.check()
    for export in exports.values():
        export.check()
    for modality, export in exports.items():
        export.write(out / modality)
        names = " ".join(place.name for place in (out / modality).files())
        say(f"round {number} · {modality} · {export.architecture} → {out / modality}: {names}")
    for modality in exports if push else ():
        assert push is not None
        say(f"{modality} → {push.upload(out / modality, modality)}")


if __name__ == "__main__":
    run_job(main)
