"""`python -m resact`, which `torchrun -m resact` needs."""

from resact.cli import main

main()
