"""Weir on kernels that this machine doesn't run: Debian's, under qemu, with this machine's own root.

``./dev test kernels [KERNEL ...] [PYTEST ARGUMENT ...]``. ``debian`` fetches and unpacks kernels, ``initramfs`` makes
what they start from, ``virtual`` boots one and runs a job in it, ``verdict`` reads what the job printed, ``suite`` says
which tests are run. The tests in this folder also run on this machine's kernel, with all others.
"""
