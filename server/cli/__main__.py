"""`python -m server.cli`: how the root process starts its children, installed or not."""

from server.cli.main import main

main()
