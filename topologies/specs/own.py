"""The user's own modules: where `module:Class` is looked for, and under which name it is imported.

They are found in the current directory, else on PYTHONPATH, whatever they are called; what is
installed comes last. A name that nobody else has is imported as in any program, and modules that
lie together find each other, for the current directory is the last place of `sys.path`.

A name that the standard library or an installed package has stays theirs for whoever imports it:
torch, and the user's other modules. The user's own `code.py` is then the submodule `code` of this
module, which is a package of the user's folders: under that name pickle and spawned processes find
its classes. Other modules of the user reach it by a relative import alone, from within the same
package. What PYTHONPATH names comes before installed packages for Python itself: a `torch.py` there
takes torch's place.
"""

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec

# The empty place is the current directory, as on `sys.path`.
__path__ = ["", *os.environ.get("PYTHONPATH", "").split(os.pathsep)]


def import_name(module: str) -> str:
    """The name under which the user's module is imported; `module` itself if there is none.

    Neither the module nor what it lies in is run.
    """
    if module.startswith("candor."):
        return module  # ours, also where the user stands in another checkout
    found: list[ModuleSpec] = []
    places = __path__
    for part in module.split("."):
        spec = PathFinder.find_spec(part, places)
        if spec is None:
            return module
        found.append(spec)
        places = list(spec.submodule_search_locations or ())
    if found[-1].origin is None:  # a folder without code: of data, perhaps
        return module
    top = module.partition(".")[0]
    usual = sys.modules[top].__spec__ if top in sys.modules else find_spec(top)
    alone = usual is not None and _place(usual) == _place(found[0])
    return module if alone else f"{__name__}.{module}"


def _place(spec: ModuleSpec) -> str:
    return os.path.realpath(spec.origin or "")  # a folder without `__init__.py` has no origin
