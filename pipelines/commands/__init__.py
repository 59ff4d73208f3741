"""The areas of the command line, in the order of `vigil --help`."""

from types import ModuleType

AREAS: tuple[ModuleType, ...] = ()
