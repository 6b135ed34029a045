"""Print what the program needs, one package a line: `python docker/requirements.py TORCH_VARIANT EXTRAS`.

Of pyproject.toml, without installing the program: a change of it then costs an image no installation.
EXTRAS are names of optional dependencies; auto: sa2va with cuda (its torchvision must be of the same build as
torch, and PyPI has none for the CPU), none with cpu.
"""

import re
import sys
import tomllib

variant, extras = sys.argv[1:]
with open("pyproject.toml", "rb") as file:  # noqa: PTH123
    project = tomllib.load(file)["project"]
needed = list(project["dependencies"])
if extras == "auto":
    extras = "sa2va" if variant == "cuda" else ""
for extra in re.findall(r"[\w-]+", extras):
    needed += project["optional-dependencies"][extra]
print(*needed, sep="\n")
