"""From labelled videos to a verified file.

python examples/fine_tune.py DATA WEIGHTS.pt OUT.pt
"""

import sys

import stdeploy


def main(data: str, weights: str, output: str, *settings: str) -> None:
    """Train from a checkpoint, fold, export; settings such as optimisation.epochs=3 follow."""
    trained = stdeploy.train_model("finetune", data, output, weights=weights, settings=settings)
    if trained is None:
        return  # this is not the first of several processes
    if trained.evaluation is not None:
        print(f"top-1 {trained.evaluation.top1:.1%} of {trained.evaluation.videos} videos")
    fused = stdeploy.fuse_checkpoint(trained.path)
    print(stdeploy.export_onnx(fused.path).path)


if __name__ == "__main__":
    main(*sys.argv[1:])
