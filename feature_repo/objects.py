"""What `feast apply` reads in this folder: the objects of definitions.py as attributes of a module.

Feast's command line imports this file by itself (`.feastignore` hides the others); nothing of ours does.
`vigil up` applies the same objects in code.
"""

from feature_repo import settings
from feature_repo.definitions import objects
from feature_repo.errors import BadConfiguration

_settings = settings.load()
if not _settings.home.is_dir():
    raise BadConfiguration(
        f"{_settings.home} is not a folder", remedy="set VIGIL_HOME to the folder that `vigil up` uses"
    )
globals().update({f"{type(thing).__name__}_{thing.name}": thing for thing in objects(_settings)})
