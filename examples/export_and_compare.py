"""fp32 against int8 on labelled videos.

python examples/export_and_compare.py CKPT.pt VIDEOS DATA
"""

import sys

import stdeploy


def main(checkpoint: str, videos: str, data: str) -> None:
    """Fold, export twice, print the worst errors and both accuracies."""
    fused = stdeploy.fuse_checkpoint(checkpoint)
    for result in (
        stdeploy.export_onnx(fused.path),
        stdeploy.export_onnx(fused.path, precision="int8", calibrate=videos),
    ):
        worst = max(result.parity, key=lambda row: row.error)
        top1 = stdeploy.evaluate(result.path, data).top1
        error = f"{worst.error:.1e} of {worst.tolerance:.1e} allowed"
        print(f"{result.path.name}: {worst.check} {error}, top-1 {top1:.1%}")
    cost = stdeploy.count_flops(fused.card.model, num_frames=8, side_px=64)
    print(f"{cost.total / 1e9:.3f} GFLOPs for a clip of 8 x 64 x 64")


if __name__ == "__main__":
    main(*sys.argv[1:])
