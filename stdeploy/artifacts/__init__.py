"""What stands in files: specifications, cards, digests, golden clips; and how they are written."""
