"""stdeploy: train, fold, verify, export and run 3D-CNNs for video action classification."""

__version__ = "0.1.0"
