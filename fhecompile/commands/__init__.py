"""The commands of `fhecompile`, one file each; `fhecompile.cli` puts them together."""
