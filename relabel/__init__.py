"""Find the false negatives among mined hard negatives, and write the cleaned training set back.

The names below are all a notebook needs; each is imported on first use, so `import relabel` stays light.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from relabel.config import Config
    from relabel.errors import RelabelError
    from relabel.export import export_run
    from relabel.loading import load_config
    from relabel.runs import run

_HOMES = {
    "Config": "relabel.config",
    "RelabelError": "relabel.errors",
    "export_run": "relabel.export",
    "load_config": "relabel.loading",
    "run": "relabel.runs",
}

__all__ = ["Config", "RelabelError", "__version__", "export_run", "load_config", "run"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'relabel' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
