"""Fused networks to other formats, and what they cost."""
