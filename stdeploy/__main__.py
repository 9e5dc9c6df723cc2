"""Makes `python -m stdeploy` the command line."""

from stdeploy.cli.main import main

main()
