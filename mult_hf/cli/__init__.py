"""The command `mult-hf`: one function per command."""
