"""Labelled videos in the layouts that people have. No torch: evaluation reads them too."""
