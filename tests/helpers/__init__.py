"""What the tests of several packages share: small networks, videos, the program as users run it."""
