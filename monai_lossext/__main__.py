"""Start the command line."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    try:
        from monai_lossext.cli import app

        app(prog_name="python -m monai_lossext")
    except ModuleNotFoundError as error:
        sys.exit(f'error: this command needs {error.name}: pip install "monai_lossext[compare]"')
    except ImportError as error:  # a module of this package that says itself what it needs
        sys.exit(f"error: {error}")
