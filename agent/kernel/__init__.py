"""The only room that talks to the kernel. Functions here act in the namespace that they are given, and in no other."""
