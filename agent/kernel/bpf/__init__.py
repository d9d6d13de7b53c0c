"""BPF programs at netfilter's hooks, assembled here: no compiler, no library, no file.

``instructions`` is the assembler, ``call`` bpf(2), ``programs`` what is run, ``brackets`` where it stands, and for how
long: links, programs and maps are descriptors of this process, and go with it.
"""
