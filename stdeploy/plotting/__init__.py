"""What people look at: timelines as pictures, the frames a network saw, videos with labels."""
