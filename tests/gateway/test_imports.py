"""The service must start where no torch is installed."""

import subprocess
import sys


def test_importing_the_service_never_imports_torch() -> None:
    code = (
        "import sys, pkgutil, importlib, server\n"
        "for module in pkgutil.walk_packages(server.__path__, 'server.'):\n"
        "    if 'migrations' not in module.name and not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
        "heavy = {'torch', 'transformers', 'workers.engine'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
